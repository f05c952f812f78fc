"""Templates to HTML: every value is escaped by the environment, none by hand."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from thack.reporting.colours import ALL
from thack.reporting.glossary import GLOSSARY
from thack.reporting.text import typeset


def render(template: str, page: object) -> str:
    """One HTML file that needs no other.

    Args:
        template: A name in `templates/`.
        page: What the template shows, as `page`.
    """
    return environment().get_template(template).render(page=page, colours=ALL, glossary=GLOSSARY).lstrip()


@cache
def environment() -> Environment:
    """Where the templates are, and what happens to every value that they show."""
    return Environment(
        loader=PackageLoader("thack.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _final(value: object) -> object:
    return value if isinstance(value, Markup) else typeset(value)
