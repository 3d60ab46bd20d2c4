"""Parameters of a program as a safetensors file, which holds tensors and text and no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.training.checkpoint import load_parameters, write_atomically

# The parts of a configuration that a file describes: with them a program can be built again.
_PARTS = ("model", "latent_dim", "prior", "likelihood", "posterior", "network")


def write_safetensors(
    vae: nn.Module, path: str | Path, *, checkpoint_sha256: str | None = None
) -> None:
    """Write all parameters and buffers, atomically.

    The metadata are text: "format", "pyro_vae" (the version), "parts" (JSON of the model, its
    parts and their options, if the program has a `configuration`), "event_shape",
    "checkpoint_sha256", and "shared" (JSON of each name of a tensor that has several, with the
    name under which it is stored).

    Args:
        vae: The program.
        path: The file.
        checkpoint_sha256: The SHA-256 of the checkpoint that the parameters come from.

    Raises:
        ValueError: If the state of the program holds something else than dense tensors.
        ImportError: If safetensors cannot be imported.

    References:
        The format, https://huggingface.co/docs/safetensors
    """
    save = _safetensors("save")
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in vae.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ValueError(
                f"safetensors files hold dense tensors, and {name} is a {type(tensor).__name__}."
            )
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            shared[name] = first[place]
            continue
        first[place] = name
        # A copy: tensors that overlap otherwise are stored one by one.
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    content = save(tensors, metadata=_metadata(vae, shared, checkpoint_sha256))
    write_atomically(Path(path), content)


def load_safetensors(vae: nn.Module, path: str | Path) -> dict[str, str]:
    """Load the parameters of a file into a program of the same parts, bit for bit.

    Args:
        vae: The program.
        path: The file, from `write_safetensors`.

    Returns:
        The metadata of the file.

    Raises:
        ValueError: If there is no such file, it is damaged, or its tensors are not those of the
            program.
        ImportError: If safetensors cannot be imported.
    """
    open_file = _safetensors("safe_open")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no safetensors file at {path}.")
    try:
        with open_file(path, framework="pt", device="cpu") as file:
            state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
        shared = json.loads(metadata.get("shared", "{}"))
        state |= {name: state[stored] for name, stored in shared.items()}
    except Exception as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file.") from error
    load_parameters(vae, state)
    return metadata


def _metadata(
    vae: nn.Module, shared: Mapping[str, str], checkpoint_sha256: str | None
) -> dict[str, str]:
    from pyro_vae import __version__

    metadata = {"format": "pt", "pyro_vae": __version__, "shared": json.dumps(shared)}
    configuration = getattr(vae, "configuration", None)
    if isinstance(configuration, Mapping):
        parts = {name: configuration[name] for name in _PARTS if name in configuration}
        if "model" in parts:
            # A model file by its name, without the folders of the machine.
            parts["model"] = Path(str(parts["model"])).name
        metadata["parts"] = json.dumps(parts, default=str)
    contract = getattr(vae, "contract", None)
    if contract is not None:
        metadata["event_shape"] = json.dumps(list(contract.event_shape))
    if checkpoint_sha256 is not None:
        metadata["checkpoint_sha256"] = checkpoint_sha256
    return metadata


def _safetensors(name: str) -> Any:
    try:
        import safetensors
        from safetensors import torch as _torch
    except ImportError as error:
        raise ImportError(
            f"safetensors files need safetensors, which cannot be imported ({error}): "
            "pip install safetensors"
        ) from error
    return _torch.save if name == "save" else safetensors.safe_open
