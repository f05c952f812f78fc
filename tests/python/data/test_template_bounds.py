"""A chat template is a stranger's code: it cannot take the machine's time or memory, and its errors are refusals."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from thack.data import template_meter
from thack.data.records import Conversation
from thack.data.template import ChatTemplate, TemplateRefusal
from thack.runtime.memory import memory_bytes

USER: dict[str, Any] = {"role": "user", "content": "a question"}
TWICE = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = NEXT %}{% endfor %}{{ ns.x }}"


def render(source: str, *messages: dict[str, Any], **variables: object) -> str:
    template = ChatTemplate(source=source, tokens={}, variables=variables)
    return template.render(Conversation(messages=messages or (USER,))).text


def doubling(start: str, following: str) -> str:
    return TWICE.replace("START", start).replace("NEXT", following)


BOMBS = {
    "times": "{{ 'x' * 10**10 }}",
    "times from the left": "{{ 10**10 * 'x' }}",
    "list": "{% set l = [1] * 10**10 %}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "precision": "{{ '%.1000000000f' % 1 }}",
    "starred width": "{{ '%*d' % (1000000000, 1) }}",
    "center": "{{ 'x' | center(3000000000) }}",
    "center, method": "{{ 'x'.center(3000000000) }}",
    "ljust": "{{ 'x'.ljust(3000000000) }}",
    "zfill": "{{ 'x'.zfill(3000000000) }}",
    "expandtabs": "{{ '\t\t'.expandtabs(1000000000) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format, nested": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format of much": "{{ ('{0}' * 20000).format('x' * 100000) }}",
    "percent of much": "{{ ('%(a)s' * 20000) % {'a': 'x' * 100000} }}",
    "indent": "{{ 'x' | indent(3000000000, true) }}",
    "batch": "{% for b in [1] | batch(1000000000, 0) %}{% endfor %}",
    "slice": "{% for b in [1] | slice(1000000000) %}{% endfor %}",
    "json": "{{ messages | tojson(indent=1000000000) }}",
    "wordwrap": "{{ ('x ' * 8000) | wordwrap(1, true, 'x' * 100000) }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "squares": doubling("3", "ns.x * ns.x"),
    "plus": doubling("'x'", "ns.x + ns.x"),
    "tilde": doubling("'x'", "ns.x ~ ns.x"),
    "replace": doubling("'xx'", "ns.x.replace('x', ns.x)"),
    "replace nothing": doubling("'xx'", "ns.x | replace('', ns.x)"),
    "join": doubling("'xx'", "ns.x.join(ns.x)"),
    "join filter": doubling("'xx'", "[ns.x, ns.x] | join(ns.x)"),
    "translate": "{{ ('a' * 100000).translate({97: 'x' * 100000}) }}",
    "block": doubling("'x'", "ns.x").replace(
        "{% set ns.x = ns.x %}", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    ),
    "macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + doubling("'x'", "m(ns.x)"),
    "lists in lists": doubling("[1]", "[ns.x, ns.x]"),
    "lists in objects": doubling("[1]", "{'a': ns.x, 'b': ns.x}"),
    "namespaces": doubling("[1]", "namespace(a=ns.x, b=ns.x)"),
    "text of lists": "{% set ns = namespace(x='x' * 1000000) %}{{ [ns.x] * 1000 }}",
    "list of slices": "{% set s = 'x' * 9999999 %}{% set ns = namespace(l=[]) %}"
    "{% for i in range(9999) %}{% set ns.l = ns.l + [s[i:]] %}{% endfor %}",
    "sums": "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
    "output": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "split": "{{ ('x ' * 33000000).split() | length }}",
    "map": "{{ range(99999) | map('string') | map('center', 999999) | join }}",
    "slow filter": "{{ ('<a' * 99999) | striptags }}",
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_what_would_fill_the_memory_is_refused(source: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateRefusal, match="the chat template fails on the conversation: it "):
        render(source)
    limit_s = 12 if sys.gettrace() else 4  # a tracer, such as coverage, follows every line of the meter
    assert time.thread_time() - started < limit_s


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"


@pytest.mark.parametrize("body", ["", "{{ b }}", "{% if a is divisibleby 3 %}{% endif %}", "{{ 'x'.upper() }}"])
def test_loops_end_also_outside_of_the_main_thread(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_meter, "MOST_S", 0.2)
    reasons: list[str] = []

    def work() -> None:
        with pytest.raises(TemplateRefusal) as caught:
            render(ENDLESS.replace("BODY", body))
        reasons.append(str(caught.value))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert len(reasons) == 1
    assert "it computes for more than" in reasons[0] or "it makes more" in reasons[0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "can only concatenate"),
        ("{% include 'x' %}", "no loader"),
        ("{% import 'x' as y %}", "no loader"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% for %}", "Expected"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
        ("{{ " + "[" * 90 + "1" + "]" * 90 + " }}" + "{% if true %}" * 300 + "{% endif %}" * 300, ""),
        ("{% for i in [1] %}" * 40 + "{% endfor %}" * 40, "nested"),
        ("{{ raise_exception('no system') }}", "refuses the conversation: no system"),
        ("{{ '9' * 5000 | int }}", ""),
    ],
)
def test_whatever_a_template_raises_is_a_refusal(source: str, reason: str) -> None:
    try:
        found = render(source)
    except TemplateRefusal as error:
        assert reason in str(error)
    else:
        assert reason == "" and found


def test_variables_do_not_replace_the_conversation() -> None:
    with pytest.raises(TemplateRefusal, match="messages is no template variable"):
        render("{{ messages }}", messages=[])


def test_long_chats_are_rendered_also_by_templates_that_join_turn_by_turn() -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "wörd " * 500} for i in range(400)]
    plain = "".join(f"<|{turn['role']}|>{turn['content'].strip()}\n" for turn in turns)
    loop = "{% for m in messages %}{{ '<|' ~ m.role + '|>' }}{{ m['content'] | trim }}\n{% endfor %}"
    assert render(loop, *turns) == plain
    joined = (
        "{% set ns = namespace(text='', seen=[]) %}{% for m in messages[0:] %}"
        "{% set ns.text = ns.text ~ '<|' ~ m.role ~ '|>' ~ m.content.strip() ~ '\n' %}"
        "{% set ns.seen = ns.seen + [m] %}{% endfor %}{{ ns.text }}"
    )
    assert render(joined, *turns) == plain


def test_a_long_chat_gives_a_template_time_and_not_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may be made grows with what is given; what is held at a time grows far less."""
    monkeypatch.setattr(template_meter, "_MEMORY", 1 << 26)
    given = {"role": "user", "content": "x" * 1_000_000}
    held = "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = ns.l + [CONTENT ~ i] %}{% endfor %}"
    begin, most = memory_bytes(), 0
    for source in (held.replace("CONTENT", "messages[0].content"), "{{ (messages[0].content * 1500) | length }}"):
        with pytest.raises(TemplateRefusal, match="it holds more memory than any conversation needs"):
            render(source, given)
        most = max(most, memory_bytes())
    assert most - begin < 1 << 29
    joined = "{% set ns = namespace(t='') %}{% for i in range(20) %}{% set ns.t = ns.t ~ CONTENT %}{% endfor %}"
    found = render(joined.replace("CONTENT", "messages[0].content") + "{{ ns.t }}", given)
    assert len(found) == 20_000_000, "what is let go is free"
