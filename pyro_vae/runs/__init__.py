"""Run directories: configuration, checkpoint, cached results and provenance."""

from pyro_vae.runs.run_directory import RunDirectory, load

__all__ = ["RunDirectory", "load"]
