"""Small pieces of HTML: everything that is not markup is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def tag(name: str, *content: str, **attributes: str) -> str:
    """`<name …>content</name>`; content is markup already, attributes are escaped (`class_` → class)."""
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{words}>{''.join(content)}</{name}>"


def text(value: object) -> str:
    return escape(str(value), quote=False).replace(" %", "\u00a0%")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = "") -> str:
    """Cells are markup already. Each cell knows its column's name, for phones, where rows become blocks."""
    names = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(name)}"><span>{cell}</span></td>' for name, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    inner = f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
    return tag("div", inner, class_=f"table {class_}".strip())


def section(name: str, title: str, *content: str) -> str:
    """Nothing where there is no content."""
    body = "".join(content)
    return tag("section", tag("h2", text(title)), body, id=name) if body else ""


def folded(title: str, *content: str) -> str:
    body = "".join(content)
    return tag("details", tag("summary", text(title)), body) if body else ""
