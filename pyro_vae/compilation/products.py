"""Choose between MKL and oneDNN for each matrix product of a graph, by a measurement."""

import getpass
import json
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

# PyTorch hands float32 products to MKL, which leaves half of the speed of other makers' CPUs
# unused: 215 GFLOP/s where oneDNN reaches 475, on two cores of a Zen 5 CPU, for the products of a
# perceptron with 784 and 400 units at batch 256. On Intel's CPUs either may be faster. Both
# compute in float32, and differ by rounding. bfloat16 is oneDNN's in both cases, called in
# different ways.
_LIBRARY = torch.library.Library("pyro_vae", "DEF")
# The factors may have any strides.
_LIBRARY.define("onednn_mm(Tensor a, Tensor b) -> Tensor", tags=(torch.Tag.flexible_layout,))

# The libraries differ by microseconds below this number of multiplications.
_MINIMUM_MULTIPLICATIONS = 100_000
# Larger axes are cut to this before products are timed, so that timing takes milliseconds.
_LARGEST_AXIS = 1024
_SECONDS = 0.012
_ROUNDS = range(3, 61)
# oneDNN needs a contiguous first factor. A copy, fused with the operation before it, takes this
# share of a product's time.
_COPY = 0.1
# Capabilities, on x86 and on ARM.
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def _mm(a: Tensor, b: Tensor) -> Tensor:
    # A linear layer: x w^T + bias.
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def _mm_shape(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


_LIBRARY.impl("onednn_mm", _mm, "CPU")
_LIBRARY.impl("onednn_mm", _mm_shape, "Meta")


def choose_products(graph: Graph) -> None:
    """Replace the graph's large products on a CPU by oneDNN's where those are faster, in place.

    Each size is measured once for a model of CPU, a version of torch and a number of threads; a
    file beside the compiled graphs stores the result. If it is lost, sizes are measured again,
    and a choice that was close may change, with the rounding of later results.
    """
    if not torch.backends.mkldnn.is_available():
        return
    _register_lowering()
    aten, mm = torch.ops.aten, torch.ops.pyro_vae.onednn_mm.default
    choices = _Choices(_choices_path())
    for node in list(graph.nodes):
        if node.target is aten.mm.default and choices.prefer_onednn(*node.args):
            node.target = mm
        elif (
            node.target is aten.addmm.default
            and not node.kwargs
            and choices.prefer_onednn(*node.args[1:])
        ):
            bias, *factors = node.args
            with graph.inserting_before(node):
                product = graph.call_function(mm, tuple(factors))
                product.meta = dict(node.meta)
            node.target, node.args = aten.add.Tensor, (product, bias)
    choices.write()


def _register_lowering() -> None:
    """Let compiled code call oneDNN itself: the operation above costs 5 microseconds a call."""
    from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
    from torch._inductor.lowering import lowerings, permute, register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node

    mm: Any = torch.ops.pyro_vae.onednn_mm.default
    if mm in lowerings:
        return

    @register_lowering(mm, type_promotion_kind=None)
    def lower(a: Any, b: Any) -> Any:
        # Computed once for all that use them: a copy alone would compute them again. oneDNN would
        # make the first factor contiguous by a copy; the compiler fuses it. Inductor's own linear
        # layer would copy the second one as well.
        rows = ExternKernel.require_contiguous(ExternKernel.realize_input(a))
        ExternKernel.realize_input(b)
        columns = ExternKernel.realize_input(permute(b, (1, 0)))
        size = [a.get_size()[0], b.get_size()[1]]
        layout = FixedLayout(a.get_device(), a.get_dtype(), size)
        product = LinearUnary(layout, [rows, columns], [None, "none", [-1], ""])
        return TensorBox.create(_create_output_node(product))


# ---- measurement -------------------------------------------------------------------------------


class _Choices:
    """The faster library by size of product, read from a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = _read(path)
        self._new: dict[str, str] = {}

    def prefer_onednn(self, a: Node, b: Node) -> bool:
        """Whether oneDNN computes a b faster. Products of a size not seen before are timed."""
        factors = [factor.meta["val"] for factor in (a, b)]
        (rows, inner), (_, columns) = (factor.shape for factor in factors)
        if not (
            all(f.device.type == "cpu" for f in factors)
            and factors[0].dtype == factors[1].dtype
            and factors[0].dtype in (torch.float32, torch.bfloat16)
            and rows * inner * columns >= _MINIMUM_MULTIPLICATIONS
        ):
            return False
        axes = tuple(min(size, _LARGEST_AXIS) for size in (rows, inner, columns))
        # "r" where rows are contiguous, "c" where columns are.
        orders = "".join("r" if f.stride(1) == 1 else "c" for f in factors)
        dtype = factors[0].dtype
        key = f"{'x'.join(map(str, axes))} {orders} {str(dtype).removeprefix('torch.')}"
        known = self._stored | self._new
        if key not in known:
            self._new[key] = _faster(axes, orders, dtype)
        return (self._stored | self._new)[key] == "onednn"

    def write(self) -> None:
        """Add new choices to the file; without a file they hold for this graph."""
        if not self._new:
            return
        # Another process may have written since; its choices hold.
        content = json.dumps(self._new | _read(self._path), indent=1, sort_keys=True)
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self._path.parent, delete=False, encoding="utf-8"
            ) as file:
                file.write(content)
            os.replace(file.name, self._path)


def _read(path: Path) -> dict[str, str]:
    """The choices in a file; none if it is missing or damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {key: choice for key, choice in stored.items() if choice in ("mkl", "onednn")}


def _choices_path() -> Path:
    parts = f"{processor()} torch {torch.__version__} threads {torch.get_num_threads()}"
    name = re.sub(r"[^\w.]+", "_", parts)
    return cache_folder() / f"products_{name}.json"


def cache_folder() -> Path:
    """The folder of compiled graphs and choices: of `TORCHINDUCTOR_CACHE_DIR`, or the user's."""
    if root := os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(root) / "pyro_vae"
    try:
        user = Path.home()
    except RuntimeError:  # No home.
        return Path(tempfile.gettempdir()) / f"pyro_vae_{getpass.getuser()}"
    return Path(os.environ.get("XDG_CACHE_HOME", user / ".cache")) / "pyro_vae"


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; others emulate them slowly."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _BFLOAT16)


def processor() -> str:
    """The processor's name, with family and model, which distinguish processors of one name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    name = fields.get("model name", platform.machine())
    return f"{name}, family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"


def _faster(axes: tuple[int, int, int], orders: str, dtype: torch.dtype) -> str:
    """The library that computes a product of these sizes faster: "mkl" or "onednn"."""
    rows, inner, columns = axes
    shapes = zip(((rows, inner), (inner, columns)), orders, strict=True)
    a, b = (
        torch.full(shape if order == "r" else shape[::-1], 0.5, dtype=dtype, device="cpu")
        for shape, order in shapes
    )
    contiguous = torch.full((rows, inner), 0.5, dtype=dtype, device="cpu")
    a, b = (f if order == "r" else f.t() for f, order in zip((a, b), orders, strict=True))
    linear = torch.ops.mkldnn._linear_pointwise.default
    mkl, onednn = _seconds(
        lambda: torch.mm(a, b), lambda: linear(contiguous, b.t(), None, "none", [], "")
    )
    copy = _COPY if orders[0] == "c" and dtype == torch.float32 else 0.0
    return "onednn" if (1 + copy) * onednn < mkl else "mkl"


def _seconds(*products: Callable[[], Tensor]) -> list[float]:
    """The least time of each product, in turns, so that a busy machine slows all of them."""
    least = [math.inf] * len(products)
    started = time.perf_counter()
    with torch.no_grad():
        for product in products:
            product()
        for turn in range(_ROUNDS.stop):
            if turn >= _ROUNDS.start and time.perf_counter() - started > _SECONDS:
                break
            for place, product in enumerate(products):
                before = time.perf_counter()
                product()
                least[place] = min(least[place], time.perf_counter() - before)
    return least
