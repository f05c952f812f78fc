"""Nothing that a user wrote acts on the page: not as markup, not as an attribute, not on the direction of text."""

from __future__ import annotations

import ast
import html
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import thack.reporting
from detection.synthetic import Noise, write_run
from reporting.dom import tree
from thack.reporting import write_report
from thack.reporting.render import environment
from thack.reporting.table import Span, table
from thack.reporting.text import printable, typeset

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"onload=alert(1) x='y' &amp; <b>"
REVERSED = "safe\u202egpj.exe\u2066"
HOSTILE = f"{SCRIPT} {QUOTES} {REVERSED} {{{{ 7 * 7 }}}} $x_1$"


class Collected(HTMLParser):
    """Tags, the attributes that could run code, and the text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def collect(page: str) -> Collected:
    tree(page)
    found = Collected()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("hostile")
    name = HOSTILE.replace("/", "∕")  # no separator in the name of a directory
    runs = [write_run(root / f"{name}{number}", noise=Noise(checkpoint=0.0)) for number in range(2)]
    for number, run in enumerate(runs):
        (run / "config.toml").write_text(
            f"seed = {number}\nshared = {json.dumps(HOSTILE)}\nown = {json.dumps(HOSTILE + str(number))}\n"
        )
        (run / "environment.json").write_text(json.dumps({f"fact {HOSTILE}": HOSTILE}))
    return write_report(runs, root / "report.html", title=HOSTILE).read_text()


def test_hostile_names_settings_and_prompts_are_only_text(page: str) -> None:
    found = collect(page)
    assert not found.tags & {"script", "b", "img", "iframe"}
    assert not {name for name in found.attributes if name.startswith("on")}
    assert SCRIPT in found.text and QUOTES in found.text and "{{ 7 * 7 }}" in found.text and "$x_1$" in found.text


def test_marks_that_reverse_text_are_written_out(page: str) -> None:
    assert "\u202e" not in page and "\u2066" not in page
    assert "safe[right-to-left override]gpj.exe[left-to-right isolate]" in html.unescape(page)


def test_every_cell_and_label_is_escaped() -> None:
    spans = tuple(Span(HOSTILE, style) for style in ("plain", "strong", "small", "code"))
    template = environment().from_string('{% import "macros.html.jinja" as part %}{{ part.table(found) }}')
    found = collect(template.render(found=table([HOSTILE], [[spans]])))
    assert not found.tags & {"script", "b"}
    assert found.text.count(SCRIPT) == 5, "the head, and the four spans"


@given(st.text(st.characters(codec=None), max_size=50))
def test_printable_text_can_be_written_and_read_back(text: str) -> None:
    found = printable(text)
    assert found.encode("utf-8").decode("utf-8") == found == printable(found)
    assert not set(found) & set("\u202a\u202e\u2066\x00\x7f")
    assert printable("".join(filter(str.isalnum, text))) == "".join(filter(str.isalnum, text))


def test_line_breaks_stay_and_percent_signs_are_not_cut_off() -> None:
    assert typeset("a\tb\nc\x00 5 %") == "a\tb\nc\N{REPLACEMENT CHARACTER} 5\N{NO-BREAK SPACE}%"


def test_only_one_place_makes_markup_and_no_template_switches_escaping_off() -> None:
    folder = Path(thack.reporting.__file__).parent
    makers = [path.name for path in folder.glob("*.py") if _calls_markup(path)]
    assert makers == ["svg.py"]
    for path in (folder / "templates").glob("*.jinja"):
        text = path.read_text()
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, path.name


def _calls_markup(path: Path) -> bool:
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "Markup" for call in calls)
