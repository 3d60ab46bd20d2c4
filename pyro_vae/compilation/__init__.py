"""A function of tensors as one compiled graph of ATen operations, whatever Python it is written in."""

from pyro_vae.compilation.inductor import CompilerError, compile_graph
from pyro_vae.compilation.tracing import Traced, TracingError, one_line, trace

__all__ = ["CompilerError", "Traced", "TracingError", "compile_graph", "one_line", "trace"]
