"""Pages from templates: everything is escaped, and nothing runs that the page does not name.

The security policy of a page allows its scripts and styles by their hashes, images in the page,
and nothing else: no request leaves it.
"""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.json_values import to_jsonable

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

HERE = Path(__file__).parent


def render(
    template: str,
    context: Mapping[str, Any],
    *,
    record: Mapping[str, Any],
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
    data: Mapping[str, str] = {},
) -> str:
    """A page from a template, whose security policy allows what is in it and nothing else.

    Args:
        template: The template's file.
        context: Its variables.
        record: What "Copy as JSON" copies.
        scripts: Scripts besides the page's own, which come last.
        styles: Style sheets besides the page's own.
        data: JSON by the id of its element.
    """
    scripts = [*scripts, (HERE / "page.js").read_text(encoding="utf-8")]
    # A browser computes the hash of a script with its ends of lines in this form.
    scripts = [re.sub(r"\r\n?", "\n", script) for script in scripts]
    styles = [(HERE / "style.css").read_text(encoding="utf-8"), *styles]
    text = json.dumps(to_jsonable(record), indent=2, allow_nan=False, ensure_ascii=False)
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {' '.join(map(source_hash, styles))}",
            f"script-src {' '.join(map(source_hash, scripts))}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    data = {name: escape_json(each) for name, each in data.items()}
    page = environment().get_template(template)
    return page.render(
        **context, policy=policy, scripts=scripts, styles=styles, data=data, record=text
    )


@cache
def environment() -> "jinja2.Environment":
    """The templates, in which all values are escaped."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["prose"] = prose
    found.filters["linked"] = linked
    found.filters["words"] = lambda name: str(name).replace("_", " ")
    return found


def compile_templates() -> None:
    """Compile the templates of a run, which takes longer than writing its first page."""
    environment().get_template("run.html.j2")
    for name in ("base", "macros", "copies"):
        environment().get_template(f"{name}.html.j2")


def prose(text: str, run: str = "RUN") -> "Markup":
    """Text whose parts in backticks are code, in which RUN is the run's path, as safe HTML.

    >>> prose("see `scripts/evaluate.py RUN` <1>", "runs/a")
    Markup('see <code>scripts/evaluate.py runs/a</code> &lt;1&gt;')
    """
    from markupsafe import Markup, escape

    parts = re.split(r"`([^`]*)`", text)
    safe = [
        Markup("<code>{}</code>").format(re.sub(r"\bRUN\b", lambda _: shlex.quote(run), part))
        if index % 2
        else escape(part)
        for index, part in enumerate(parts)
    ]
    return Markup("").join(safe)


def linked(text: str) -> "Markup":
    """Text whose addresses are links, as safe HTML.

    >>> linked("Yao (2018), https://arxiv.org/abs/1704.02030")
    Markup('Yao (2018), <a href="https://arxiv.org/abs/1704.02030">arxiv.org/abs/1704.02030</a>')
    """
    from markupsafe import Markup, escape

    parts = re.split(r"(https?://[^\s,;)]+)", text)
    safe = [
        Markup('<a href="{}">{}</a>').format(part, part.partition("://")[2])
        if index % 2
        else escape(part)
        for index, part in enumerate(parts)
    ]
    return Markup("").join(safe)


def source_hash(source: str) -> str:
    """The source expression that allows an inline script or style sheet.

    >>> source_hash("alert(1)")
    "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    """
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def escape_json(text: str) -> str:
    r"""JSON that can stand in a script element: no string in it ends the element.

    >>> escape_json('["</script>"]')
    '["\\u003c/script>"]'
    """
    return text.replace("<", "\\u003c")
