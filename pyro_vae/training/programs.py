"""What programs that a person calls have in common."""

import os

import torch

# A path may be this long; what is longer is no word that a person typed.
LONGEST_WORD = 1000


def in_one_line(error: Exception) -> str:
    """What an error says; values of any length and any characters are cut to fit a line."""
    words = [
        word if len(word) <= LONGEST_WORD else f"{word[:50]}...{word[-50:]}"
        for word in str(error).split()
    ]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(words))


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda asks for a GPU, but torch finds none here; use cpu or auto."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # torchrun gives each process on a machine a number, and with it a GPU.
    return (
        torch.device(name, int(os.environ.get("LOCAL_RANK", "0")))
        if name == "cuda"
        else torch.device(name)
    )
