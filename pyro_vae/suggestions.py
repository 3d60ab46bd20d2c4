"""Suggestions for misspelled names."""

import difflib
from collections.abc import Collection, Iterable

# Names that other libraries use.
_SYNONYMS = {"gaussian": "normal", "cnn": "conv", "learning_rate": "lr"}


def did_you_mean(word: str, choices: Collection[str]) -> str:
    """`did you mean NAME? ` with the names most similar to a word; empty if none is.

    >>> did_you_mean("vmap", ["standard_normal", "vamp"])
    'did you mean vamp? '
    >>> did_you_mean("gaussian", ["bernoulli", "normal", "low_rank_normal"])
    'did you mean normal? '
    >>> did_you_mean("normal", ["log_normal", "full_normal", "point"])
    'did you mean log_normal or full_normal? '
    >>> did_you_mean("xyz", ["log_normal"])
    ''
    """
    plain = {_plain(choice): choice for choice in choices}
    wanted = _plain(word)
    for name, other in _SYNONYMS.items():
        wanted = wanted.replace(name, other)
    if wanted in plain:
        return f"did you mean {plain[wanted]}? "
    close = difflib.get_close_matches(wanted, plain, n=1)
    parts = [name for name in plain if len(wanted) > 2 and wanted in name.split("_")]
    found = [plain[name] for name in parts[:3] or close]
    listed = " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))
    return f"did you mean {listed}? " if found else ""


def or_meant(word: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown word: `; did you mean NAME?`, or a period.

    >>> or_meant("StandardNormal", ["vamp", "standard_normal"])
    '; did you mean standard_normal?'
    """
    meant = did_you_mean(word, [*choices])
    return f"; {meant.strip()}" if meant else "."


def _plain(name: str) -> str:
    return name.strip("-").replace("-", "_").lower()
