"""A Pyro SVI to ArviZ, for any model and guide.

`from_svi` makes the tree, `write_netcdf` and `write_zarr` save it. ArviZ converts Pyro's MCMC alone,
and no longer that from 1.0 on.
"""

from pyro_vae.inference_data.conversion import from_svi
from pyro_vae.inference_data.sites import unconditioned
from pyro_vae.inference_data.stores import write_netcdf, write_zarr

__all__ = ["from_svi", "unconditioned", "write_netcdf", "write_zarr"]
