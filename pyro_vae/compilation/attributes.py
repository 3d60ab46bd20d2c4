"""Tensors that a function hangs on its modules while it is traced."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn


class Attributes:
    """What modules hold now, in parameters, buffers and plain attributes.

    Args:
        modules: The modules; each is looked at with those inside of it.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = {id(part): part for module in modules for part in module.modules()}
        self._stores: list[tuple[str, dict[str, Any]]] = [
            (type(part).__name__, store)
            for part in parts.values()
            for store in (part.__dict__, part._buffers, part._parameters)
        ]
        self._before = [dict(store) for _, store in self._stores]

    def restore(self) -> list[tuple[str, Tensor]]:
        """Put back what was bound to a tensor since; return names, and the tensors that were there."""
        found = []
        for (owner, store), before in zip(self._stores, self._before, strict=True):
            for name in list(self._bound(store, before)):
                if name not in before:
                    del store[name]
                    continue
                store[name] = before[name]
                if isinstance(before[name], Tensor):
                    found.append((f"{owner}.{name}", before[name]))
        return found

    @staticmethod
    def _bound(store: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
        for name, value in store.items():
            if isinstance(value, Tensor) and value is not before.get(name):
                yield name
