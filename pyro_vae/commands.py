"""The commands of `pyro-vae`, and messages that name them.

`pyro_vae_console` reads this file on its own, without the package and torch.
"""

import re
import sys

# The script that each command runs.
COMMANDS = {
    "train": "svi_train",
    "diagnose": "diagnose",
    "compare": "compare",
    "evaluate": "evaluate",
    "encode": "encode",
    "sample": "sample",
    "score": "score",
    "export": "export",
}
_NAMES = {script: f"pyro-vae {command}" for command, script in COMMANDS.items()}
_SCRIPT = re.compile(rf"(?<![\w./-])(?:python )?(scripts/)?({'|'.join(_NAMES)})\.py\b")


def as_typed(text: str, *, names: bool = False) -> str:
    """Text whose commands run a program as this one was run: by its script, or by `pyro-vae`.

    >>> as_typed("next: python scripts/diagnose.py runs/a")
    'next: python scripts/diagnose.py runs/a'

    Args:
        text: A message with commands such as `python scripts/diagnose.py RUN`.
        names: Whether a name alone, such as "diagnose.py", is also a script's, not a file's.
    """
    # `pyro_vae_console` sets it.
    if not sys.argv[0].startswith("pyro-vae "):
        return text
    return _SCRIPT.sub(lambda m: _NAMES[m[2]] if m[1] or names else m[0], text)
