"""A Pyro SVI to ArviZ, for any model and guide.

`from_svi` makes the tree, `write_netcdf` and `write_zarr` save it. ArviZ converts only Pyro's
MCMC, and no longer does from 1.0 on.
"""

from pyro_vae.inference_data.conversion import from_svi, write_netcdf, write_zarr
from pyro_vae.traces import unconditioned

__all__ = ["from_svi", "unconditioned", "write_netcdf", "write_zarr"]
