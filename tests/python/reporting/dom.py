"""A page as a tree, for tests that ask what is where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "br", "link", "hr", "img"}


@dataclass
class Element:
    """One element, with what it holds in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    content: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text below, with white space made one space."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for one in self.content:
            if isinstance(one, str):
                yield one
            elif one.tag not in ("style", "svg"):
                yield from one._texts()

    def below(self) -> Iterator[Element]:
        """Every element below, in the order of the page."""
        for one in self.content:
            if isinstance(one, Element):
                yield one
                yield from one.below()

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements of a tag; `class_` is one of the classes."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [one for one in self.below() if one.tag == tag and all(one._has(k, v) for k, v in wanted.items())]

    def one(self, tag: str, **attributes: str) -> Element:
        """The only such element."""
        (found,) = self.all(tag, **attributes)
        return found

    def _has(self, name: str, value: str) -> bool:
        found = self.attributes.get(name, "")
        return value in found.split() if name == "class" else found == value

    def section(self, name: str) -> Element:
        return self.one("section", id=name)

    def details(self, title: str) -> Element:
        """The folded part with this title."""
        (found,) = [one for one in self.all("details") if one.one("summary").text == title]
        return found


def rows(table: Element) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    head = [cell.text for cell in table.all("th")]
    return [dict(zip(head, [cell.text for cell in row.all("td")], strict=True)) for row in table.all("tr")[1:]]


def tree(page: str) -> Element:
    """The page; fails on tags that are not closed in order."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert len(builder.open) == 1, f"not closed: {[one.tag for one in builder.open[1:]]}"
    return builder.open[0]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs, self.open.append if tag not in _VOID else None)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(tag, attrs, None)

    def _add(self, tag: str, attrs: list[tuple[str, str | None]], then: Callable[[Element], object] | None) -> None:
        found = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(found)
        if then is not None:
            then(found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> within <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def links(page: Element) -> tuple[list[str], list[str], set[str]]:
    """Every id; what is loaded from elsewhere; and the ids that are referred to."""
    attributes = [pair for element in page.below() for pair in element.attributes.items()]
    ids = [value for name, value in attributes if name == "id"]
    targets = [value for name, value in attributes if name == "src" or name.endswith("href")]
    within = {value[1:] for value in targets if value.startswith("#")}
    urls = {url for _, value in attributes for url in re.findall(r"url\(#([^)]+)\)", value)}
    return ids, [value for value in targets if not value.startswith("#")], within | urls
