"""Templates to Markdown: every value is escaped where it is written; `code` and `quoted` write it in other ways."""

from __future__ import annotations

import json
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from thack.reporting.text import one_line

# An underscore within a word is no mark of emphasis: column names stay readable.
_MARKS = re.compile(r"[\\`*\[~|$#]|(?<!\w)_|_(?!\w)")
_ENTITIES = {ord(mark): entity for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))}


class _Written(str):
    """Markdown that a filter of this module made from a value."""


def render_markdown(template: str, page: object) -> str:
    """One Markdown file.

    Args:
        template: A name in `templates/`.
        page: What the template shows, as `page`.
    """
    return _environment().get_template(template).render(page=page)


def escaped(value: object) -> str:
    r"""A value as text on one line: no markup, no HTML, no characters that act on what surrounds it.

    Example:
        >>> escaped("a|b <b>`c`")
        'a\\|b &lt;b&gt;\\`c\\`'
    """
    return _MARKS.sub(r"\\\g<0>", one_line(value)).translate(_ENTITIES)


def code(value: object) -> str:
    """A value as a code span: its fence is longer than every run of backticks within.

    Example:
        >>> code("a`b")
        '`` a`b ``'
    """
    text = one_line(value)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    room = " " if "`" in text or not text.strip() else ""
    return _Written(f"{fence}{room}{text}{room}{fence}")


def quoted(value: object) -> str:
    """A value as a string of YAML, for front matter: YAML reads JSON's strings."""
    return _Written(json.dumps(one_line(value), ensure_ascii=False))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("thack.reporting"),
        autoescape=False,  # HTML's; `finalize` escapes for Markdown
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, _Written) else escaped(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "quoted": quoted}
    return environment
