"""Record a call of a function of tensors as one flat graph of ATen operations."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten


class TracingError(RuntimeError):
    """A function cannot be traced into one graph; the message gives the reason in one line."""


@dataclass(frozen=True)
class Traced:
    """A function as a graph of ATen operations.

    Each node's `meta["val"]` is a tensor without content, on the "meta" device, of the node's
    shape, strides and type; `meta["offset"]` is its place in its storage.

    Args:
        graph: `graph(*state, *arguments)` returns the function's outputs and makes its in-place
            changes.
        state: The tensors that the function reads besides its arguments, such as parameters and
            buffers. They share memory with the originals, so in-place changes are seen on both
            sides; tensors that are rebound later are not.
    """

    graph: GraphModule
    state: tuple[Tensor, ...]

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return next(n.meta["device"] for n in self.graph.graph.nodes if "device" in n.meta)

    @property
    def changes_state(self) -> bool:
        """Whether the graph changes a tensor of its state in place."""
        return any(
            _origin(changed).name.startswith("state_")
            for node in self.graph.graph.nodes
            for changed in mutated_arguments(node.target, node.args, node.kwargs)
        )

    def __call__(self, *arguments: Tensor) -> Any:
        """Run the graph operation by operation, without a compiler."""
        with torch.no_grad():
            return self.graph(*self.state, *arguments)


@dataclass(frozen=True)
class Recording:
    """A call of a function, and its graph.

    Args:
        outputs: What the call returned.
        changed: The tensors that it changed in place, and their content before, in the order of
            the changes.
        traced: The graph, or the reason why there is none, in one line.
    """

    outputs: tuple[Tensor, ...]
    changed: list[tuple[Tensor, Tensor]]
    traced: Traced | str


def record(
    function: Callable[..., Any], *arguments: Tensor, modules: Iterable[nn.Module] = ()
) -> Recording:
    """Call a function, and record its operations, those of gradients that it takes included.

    Shapes, and all numbers and branches that do not depend on a tensor's content, are constants of
    the graph. So is what a function computes outside of PyTorch; compare a later call of the graph
    with the function before using it.

    There is no graph if the function depends on the content of a tensor in Python (`.item()`,
    `if`, a boolean index), or reads an attribute of a module and binds a new tensor to it.

    Args:
        function: A function of tensors to a tuple of tensors; it may read and change others in
            place. Its errors are raised.
        *arguments: Its arguments.
        modules: Modules to watch for attributes that are rebound to a new tensor, which no graph
            can do.
    """
    return _record(_Recorder(arguments), function, arguments, modules)


def _record(
    recorder: "_Recorder",
    function: Callable[..., Any],
    arguments: Sequence[Tensor],
    modules: Iterable[nn.Module],
) -> Recording:
    bindings = _Bindings(modules)
    with recorder:
        outputs = tuple(function(*arguments))
    reason = recorder.reason
    for name, before in bindings.rebound():
        # What is only written, such as a cache for the rest of the call, carries no state.
        if any(before is tensor for tensor in recorder.state):
            reason = reason or (
                f"it binds a new tensor to {name}, which a graph needs changed in place"
            )
    return Recording(outputs, recorder.changed, reason or recorder.finish(outputs))


def trace(
    function: Callable[..., Any], *arguments: Tensor, modules: Iterable[nn.Module] = ()
) -> Traced:
    """The graph of a function, by a call whose changes are undone; see `record`.

    Raises:
        TracingError: If there is no graph, or the function fails.
    """
    modules = list(modules)
    noise, bindings, recorder = RandomState(), _Bindings(modules), _Recorder(arguments)
    try:
        traced = _record(recorder, function, arguments, modules).traced
    except Exception as error:
        # Pyro appends the sites that it has seen to the message.
        raise TracingError(one_line(error)) from error
    finally:
        restore(recorder.changed)
        noise.restore()
        bindings.restore()
    if isinstance(traced, str):
        raise TracingError(traced)
    return traced


def restore(changed: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Undo in-place changes, given each tensor with its content before."""
    with torch.no_grad():
        for tensor, before in reversed([*changed]):
            tensor.copy_(before)


class RandomState:
    """The state of the global random streams."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Set the streams back to this state."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)


class _Recorder(TorchDispatchMode):
    """Record the operations that are carried out, below autograd."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.state: list[Tensor] = []
        self.changed: list[tuple[Tensor, Tensor]] = []
        self.reason: str | None = None
        self._nodes = WeakTensorKeyDictionary()
        self._first: Node | None = None
        # The memory of arguments and state, and the parts of it whose content was kept.
        self._storages: set[int] = set()
        self._kept: set[Any] = set()
        for index, argument in enumerate(arguments):
            node = self.graph.placeholder(f"argument_{index}")
            self._first = self._first or node
            self._add(argument, node)
            self._storages.add(_storage(argument))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to wrap the method below, which would import torch._dynamo: a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.reason is not None:
            self._keep(func, args, kwargs)
            return func(*args, **kwargs)
        if func is aten.lift_fresh.default:
            return self._lift(func(*args, **kwargs))
        self.reason = _no_graph_of(func, args)
        inputs, named = pytree.tree_map_only(Tensor, self._node, (args, kwargs))
        self._keep(func, args, kwargs)
        result = func(*args, **kwargs)
        try:
            node = self.graph.call_function(func, inputs, named)
        except Exception as error:  # noqa: BLE001 - arguments that a graph cannot hold.
            self.reason = one_line(error)
            return result
        if isinstance(result, Tensor):
            self._add(result, node)
        elif isinstance(result, (tuple, list)):
            for index, item in enumerate(result):
                if isinstance(item, Tensor):
                    self._add(item, self.graph.call_function(operator.getitem, (node, index)))
        return result

    def finish(self, outputs: tuple[Tensor, ...]) -> Traced | str:
        """The graph, with the outputs of the call."""
        try:
            self.graph.output(tuple(self._node(output) for output in outputs))
            self.graph.lint()
            module = GraphModule(nn.Module(), self.graph)
        except Exception as error:  # noqa: BLE001 - as above.
            return one_line(error)
        return Traced(module, tuple(tensor.detach() for tensor in self.state))

    def _node(self, tensor: Tensor) -> Node:
        """The node that made a tensor; an input of the graph if it was there before."""
        node = self._nodes.get(tensor)
        if node is None:
            first = self._first or next(iter(self.graph.nodes), None)
            with self.graph.inserting_before(first):  # At the end if the graph is empty.
                node = self.graph.placeholder(f"state_{len(self.state)}")
            self.state.append(tensor)
            self._storages.add(_storage(tensor))
            self._add(tensor, node)
        return node

    def _lift(self, tensor: Tensor) -> Tensor:
        """Add a tensor made of numbers, which are constants. Each call has a new one to change."""
        self._add(
            tensor, self.graph.call_function(aten.clone.default, (self._node(tensor.clone()),))
        )
        return tensor

    def _add(self, tensor: Tensor, node: Node) -> None:
        self._nodes[tensor] = node
        if tensor.layout == torch.strided and not tensor.is_quantized:
            node.meta["val"] = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )
            node.meta["offset"] = tensor.storage_offset()
            node.meta["device"] = tensor.device
        else:
            self.reason = self.reason or f"it has a tensor with layout {tensor.layout}"

    def _keep(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keep the content of what an operation changes, unless the function made it."""
        for tensor in mutated_arguments(func, args, kwargs):
            if _storage(tensor) in self._storages:
                part = tensor.data_ptr(), tensor.shape, tensor.stride()
                if part not in self._kept:
                    self._kept.add(part)
                    self.changed.append((tensor.detach(), tensor.detach().clone()))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


def _no_graph_of(operation: Any, arguments: Any) -> str | None:
    """Why an operation cannot be in a graph: its result depends on the content of a tensor."""
    tags = operation.tags
    if operation is aten.index.Tensor:
        # A boolean index is a search, and another one is not.
        dynamic = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in arguments[1])
    else:
        dynamic = torch.Tag.dynamic_output_shape in tags
    if dynamic:
        return f"the shape of the result of {operation} depends on the content of a tensor"
    if torch.Tag.data_dependent_output in tags or operation in _READS:
        return "it reads the content of a tensor in Python"
    return None


_BATCH_NORMS = (
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    aten.miopen_batch_norm.default,
)
_ADAM = (aten._fused_adam_.default, aten._fused_adam_.tensor_lr)
_READS = (aten._local_scalar_dense.default, aten.is_nonzero.default)


class _Bindings:
    """The parameters, buffers and plain attributes of modules and their submodules."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = {id(part): part for module in modules for part in module.modules()}
        self._stores: list[tuple[str, dict[str, Any]]] = [
            (type(part).__name__, store)
            for part in parts.values()
            for store in (part.__dict__, part._buffers, part._parameters)
        ]
        self._before = [dict(store) for _, store in self._stores]

    def rebound(self) -> Iterator[tuple[str, Tensor]]:
        """Names that were bound to another tensor since, and the tensors that were there."""
        for (owner, store), before in zip(self._stores, self._before, strict=True):
            for name, value in store.items():
                old = before.get(name)
                if isinstance(value, Tensor) and isinstance(old, Tensor) and value is not old:
                    yield f"{owner}.{name}", old

    def restore(self) -> None:
        """Undo what was bound to a tensor since."""
        for (_, store), before in zip(self._stores, self._before, strict=True):
            for name, value in list(store.items()):
                if isinstance(value, Tensor) and value is not before.get(name):
                    if name in before:
                        store[name] = before[name]
                    else:
                        del store[name]


def mutated_arguments(operation: Any, arguments: Sequence[Any], named: Any = None) -> list[Any]:
    """The arguments that an operation changes in place, with lists flattened."""
    schema = getattr(operation, "_schema", None)
    if operation in _BATCH_NORMS:
        # Running statistics, which their schemas do not name as changed.
        return [value for value in arguments[3:5] if value is not None and arguments[5]]
    if schema is None or not schema.is_mutable:
        return []
    named = named or {}
    values = [*arguments] + [named.get(a.name) for a in schema.arguments[len(arguments) :]]
    # Gradients are changed where they are rescaled.
    unchanged = "grads" if operation in _ADAM and named.get("grad_scale") is None else None
    return [
        item
        for argument, value in zip(schema.arguments, values, strict=True)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and argument.name != unchanged
        for item in (value if isinstance(value, (list, tuple)) else [value])
        if item is not None
    ]


def _origin(node: Node) -> Node:
    """The input that a node is a view, or a copy, of, if any."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
