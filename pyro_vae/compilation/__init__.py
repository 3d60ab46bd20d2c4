"""Compile a function of tensors into one graph of ATen operations."""

from pyro_vae.compilation.compiled_function import CompiledFunction, CompileMode
from pyro_vae.compilation.inductor import CompilerError, compile_graph
from pyro_vae.compilation.products import multiplies_bfloat16
from pyro_vae.compilation.tracing import Traced, TracingError, record, trace

__all__ = [
    "CompileMode",
    "CompiledFunction",
    "CompilerError",
    "Traced",
    "TracingError",
    "compile_graph",
    "multiplies_bfloat16",
    "record",
    "trace",
]
