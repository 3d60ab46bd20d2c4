"""Unique names of parameters in Pyro's global store."""

import itertools
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from torch import Tensor, nn
from torch.distributions import constraints

# Weak, and not an attribute: a copied or unpickled module must get its own number.
_NUMBERS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


class UniqueParameterNames(PyroModule):
    """A `PyroModule` that Pyro's `SVI` trains even after others of its class in the same process.

    Pyro keeps parameters in one store per process, by name. A second module of the same class
    finds the first one's tensors there, and `SVI` silently keeps training those. Here each module
    in use has unique names: plain ones for the first, such as `prior$$$loc`, and
    `VAE_1.prior$$$loc` for the next. The tensors in the store under its names are always the
    module's, even after a part is replaced. Sample sites and the `state_dict` keep their names.
    """

    def _pyro_get_fullname(self, name: str) -> str:
        fullname = super()._pyro_get_fullname(name)
        if name in self._pyro_samples:
            return fullname
        if self not in _NUMBERS:
            taken = set(_NUMBERS.values())
            _NUMBERS[self] = next(n for n in itertools.count() if n not in taken)
        number = _NUMBERS[self]
        return f"{type(self).__name__}_{number}.{fullname}" if number else fullname

    def __getattr__(self, name: str) -> Any:
        context = self.__dict__.get("_pyro_context")
        # Outside `model` and `guide`, Pyro registers nothing.
        if context is not None and context.active and not name.startswith("_"):
            for key, tensor, constraint in _registered(self, name):
                _register(key, tensor, constraint)
        return super().__getattr__(name)


def _registered(module: PyroModule, name: str) -> Iterator[tuple[str, Tensor, Any]]:
    """The names, tensors and constraints that Pyro registers for an attribute."""
    parameters, parts = module._parameters, module._modules
    if name in module._pyro_params:
        tensor = parameters[f"{name}_unconstrained"]
        if tensor is not None:
            yield module._pyro_get_fullname(name), tensor, module._pyro_params[name][0]
    elif (tensor := parameters.get(name)) is not None:
        yield module._pyro_get_fullname(name), tensor, constraints.real
    elif isinstance(part := parts.get(name), PyroModule):
        for inner in (*part._pyro_params, *part._parameters, *part._modules):
            if not inner.endswith("_unconstrained"):
                yield from _registered(part, inner)
    elif part is not None:
        fullname = module._pyro_get_fullname(name)
        for inner, tensor in part.named_parameters():
            if tensor.requires_grad:
                yield param_with_module_name(fullname, inner), tensor, constraints.real


def _register(name: str, tensor: Tensor, constraint: Any) -> None:
    """Put the tensor itself in the store: `store[name] = tensor` copies a non-contiguous one."""
    store: Any = pyro.get_param_store()
    stored = store._params.get(name)
    if stored is tensor:
        return
    if stored is not None and store._param_to_name.get(stored) == name:
        del store._param_to_name[stored]
    store._params[name] = tensor
    store._param_to_name[tensor] = name
    store._constraints[name] = constraint
