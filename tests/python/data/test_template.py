"""Chat templates: the same text as transformers for whatever they may use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from thack.data.records import Conversation
from thack.data.template import ChatTemplate, TemplateRefusal, common_start

USER: dict[str, Any] = {"role": "user", "content": "é <b> & 'q'"}


def template(source: str, **variables: object) -> ChatTemplate:
    return ChatTemplate(source=source, tokens={"eos_token": "</s>"}, variables=variables)


def render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return template(source).render(Conversation(messages=messages or (USER,)), **options).text


SOURCES = [
    "{{ messages | tojson }}",
    "{{ messages[0] | tojson(indent=2, sort_keys=true) }}",
    "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}.",
    "{{ dict(a=1)['a'] }}{{ messages[0].missing is defined }}{{ eos_token }}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "  {% if true %}\n  x\n  {% endif %}\ny",
    "{{ messages[0].missing | upper }}{{ missing }}{{ missing ~ 1 }}{{ [missing] | join }}{{ missing | length }}",
    "{{ messages[:1] | map(attribute='role') | join(', ') }}{{ '%s-%d' % ('a', 1) }}{{ '{}'.format(messages) }}",
    "{% set ns = namespace(a=[1, [2]]) %}{{ ns.a + ['x' * 2] }}{{ ns }}{{ messages[0].content[-1] }}{{ 2 ** 3 }}",
    "{% macro m(x, y=1) %}{{ x ~ y }}{{ caller() }}{% endmacro %}{% call m('a', y=2) %}b{% endcall %}",
    "{% set x %} a {{ eos_token | e }}{% endset %}{{ x | trim | indent(2) | replace('s', 'ss') | wordwrap(3) }}",
    "{{ messages[0].items() | list }}{{ messages[0] | dictsort }}{{ [3, 1, 2] | sort | batch(2, 0) | list }}",
    "{% for x in [1, [2, [3]]] recursive %}{{ loop.index ~ loop.length }}{{ loop(x) if x is sequence }}{% endfor %}",
    "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}",
]


@pytest.mark.parametrize("source", SOURCES)
def test_the_text_is_that_of_transformers(source: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (theirs,), _ = utils.render_jinja_template([[USER]], chat_template=source, eos_token="</s>")
    assert render(source) == theirs


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_a_template_has_no_way_out(source: str) -> None:
    with pytest.raises(TemplateRefusal):
        found = render(source)
        assert "class" not in found and "object" not in found  # what is undefined renders as nothing
        raise TemplateRefusal


def test_what_is_marked_as_generated_is_found() -> None:
    marking = template("a{% generation %}bc{% endgeneration %}d{% generation %}{% endgeneration %}")
    found = marking.render(Conversation(messages=(USER,)))
    assert (found.text, found.generated) == ("abcd", ((1, 3), (4, 4)))
    assert marking.marks_generation and not template("generation").marks_generation


def test_a_date_is_what_it_is_told() -> None:
    dated = ChatTemplate(source="{{ strftime_now('%Y-%m-%d') }}", tokens={}, variables={}, now=datetime(2024, 2, 29))
    assert dated.asks_for_date and dated.render(Conversation(messages=(USER,))).text == "2024-02-29"


def test_variables_of_a_conversation_win_over_those_of_the_settings_and_tokens() -> None:
    conversation = Conversation(messages=(USER,), template_variables={"b": "row"})
    found = template("{{ a }}{{ b }}{{ eos_token }}", a="set", b="set", eos_token="!").render(conversation)
    assert found.text == "setrow!"


def test_reasoning_has_all_its_names() -> None:
    source = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}"
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert render(source, {"role": "assistant", "content": "x", name: "r"}) == "r|r"


def test_literals_are_the_templates_own_texts() -> None:
    found = template("a{{ 'b' + messages[0].content }}{% if x == 'c' %}d{% endif %}").literals
    assert set(found.split("\0")) >= {"a", "b", "c", "d"} and "content" not in found


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("", "x", ""), ("ab", "abc", "ab"), ("axc", "ayc", "a"), ("x", "y", "")]
)
def test_the_common_start_of_two_texts(a: str, b: str, expected: str) -> None:
    assert common_start(a, b) == common_start(b, a) == expected
