"""Tensors that a function hangs on its modules while it is traced."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn


class Attributes:
    """The tensors that modules hold now, whether as buffers or as plain attributes.

    Args:
        modules: The modules; each is looked at with those inside of it.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = {
            id(part): part for module in modules for part in module.modules()
        }.values()
        self._before = dict(self._tensors())

    def restore(self) -> str | None:
        """Put back what was bound anew since, and say what it was: a name, None if there is nothing."""
        found = None
        for place, value in dict(self._tensors()).items():
            before = self._before.get(place)
            if value is not before:
                holder, name = place
                found = found or f"{type(self._named(holder)).__name__}.{name}"
                self._put(holder, name, before)
        return found

    def _tensors(self) -> Iterator[tuple[tuple[int, str], Tensor]]:
        for module in self._modules:
            for store in (module.__dict__, module._buffers, module._parameters):
                for name, value in store.items():
                    if isinstance(value, Tensor):
                        yield (id(module), name), value

    def _named(self, holder: int) -> nn.Module:
        return next(module for module in self._modules if id(module) == holder)

    def _put(self, holder: int, name: str, value: Tensor | None) -> None:
        module = self._named(holder)
        for store in (module.__dict__, module._buffers, module._parameters):
            if name in store:
                if value is None:
                    del store[name]
                else:
                    store[name] = value  # pyright: ignore[reportArgumentType]
