"""`python -m pyro_vae`, which is the command `pyro-vae`; for `torchrun -m pyro_vae train`."""

from pyro_vae_console import main

if __name__ == "__main__":
    main()
