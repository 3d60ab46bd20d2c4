"""Text as Markdown: escaped, in tables, lists and code, and without the folders of a machine."""

import re
from collections.abc import Sequence
from typing import Any


def without_folders(text: str, folders: Sequence[str]) -> str:
    """Text whose paths are reduced to file names; web addresses are unchanged.

    >>> without_folders("see /home/ann/a b/x.csv and https://arxiv.org/abs/1", ["/home/ann/a b"])
    'see x.csv and https://arxiv.org/abs/1'
    >>> without_folders("of /srv/secret/rows.npy.", [])
    'of rows.npy.'
    """
    for folder in folders:
        text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "")
    # Absolute paths of two or more parts.
    return re.sub(
        r"(?<![\w:/.\\~])(?:~|[A-Za-z]:)?(?:[\\/][^\s\\/'\"|,;()]+)+[\\/](?=[^\s\\/])", "", text
    )


def one_line(text: str) -> str:
    """Text in one line, without control characters."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()


def escape(text: Any) -> str:
    r"""Text as Markdown shows it, in one line: nothing in it is markup, a link or HTML.

    >>> escape("a|b *c* <d> [e](http://f)")
    'a\\|b \\*c\\* &lt;d&gt; \\[e\\](http\\://f)'
    """
    text = one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]#|~$!@])", r"\\\1", text)
    # These would become links by themselves.
    return text.replace("://", "\\://").replace("www.", "www\\.")


def item(text: str, end: str = "") -> str:
    """An item of a list, whose text starts no list, rule or heading of its own."""
    start = re.sub(r"^(\d+)(?=[.)])|^(?=[-+=])", r"\1\\", escape(text))
    return f"- {start}{end}"


def code_span(text: str) -> str:
    """A code span; one of more backticks than any in the text."""
    text = one_line(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def code_block(text: str, language: str) -> str:
    """A block of code; its fence is longer than any backticks in the text."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; its cells are escaped."""
    first, *others = [[escape(cell) for cell in row] for row in (header, *rows)]
    lines = [first, ["---"] * len(header), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
