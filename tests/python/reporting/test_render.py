"""The environment of the templates: strict about names, and no page needs another file."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import thack.reporting
from thack.reporting.grid_page import GridPage
from thack.reporting.page import RunsPage
from thack.reporting.render import environment

TEMPLATES = Path(thack.reporting.__file__).parent / "templates"


def test_a_name_that_a_page_does_not_have_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ page.nothing }}").render(page=object())


@pytest.mark.parametrize(("template", "page"), [("runs", RunsPage), ("grid", GridPage)])
def test_a_template_uses_every_field_of_its_page_and_no_other(template: str, page: type) -> None:
    text = (TEMPLATES / f"{template}.html.jinja").read_text() + (TEMPLATES / "base.html.jinja").read_text()
    assert set(re.findall(r"page\.(\w+)", text)) == {field.name for field in fields(page)}


def test_values_are_escaped_once_and_markup_is_left_alone() -> None:
    template = environment().from_string("{{ text }}|{{ markup }}|{{ number }}|{{ part }}")
    found = template.render(text="<a> & 5 %", markup=Markup("<b>"), number=3, part="\u202e")
    assert found == "&lt;a&gt; &amp; 5\u00a0%|<b>|3|[right-to-left override]"


def test_the_style_loads_nothing() -> None:
    style = (TEMPLATES / "report.css").read_text()
    assert "@import" not in style and "url(" not in style
    assert style.count("{") == style.count("}")


def test_every_class_of_the_style_is_used_by_a_template() -> None:
    style = re.sub(r"\{[^}]*\}", "{}", (TEMPLATES / "report.css").read_text())
    used = "".join(path.read_text() for path in TEMPLATES.glob("*.jinja"))
    sources = "".join(path.read_text() for path in TEMPLATES.parent.glob("*.py"))
    verdicts = {"hacking", "does", "healthy", "no", "holds", "over-fitting", "regressing"}  # the first word of a pill
    for name in set(re.findall(r"\.([a-z][\w-]*)", style)) - verdicts:
        assert name in used or name in sources, name
