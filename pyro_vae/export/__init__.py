"""Encoder, decoder and sampler as files that other programs run, with `torch.export` and ONNX."""

from pyro_vae.export.writing import export_onnx, write_export

__all__ = ["export_onnx", "write_export"]
