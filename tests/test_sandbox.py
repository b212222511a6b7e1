"""Templates within limits: the same text as transformers', and an error instead of a hang or a full memory."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from tunery.data import sandbox, templates
from tunery.errors import ConfigError
from tunery.protocols import Message

TALK = [Message("system", "Be brief."), Message("user", "Hi <b> 你好"), Message("assistant", "Hello\n")]
PLAIN = [{"role": message.role, "content": message.content} for message in TALK]
DOUBLED = "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = EXPRESSION %}{% endfor %}"
ENDLESS = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "large lists": "{% for i in range(100000) %}{% set a = range(100000)|list %}{% endfor %}",
}
LARGE = {
    "repetition": "{{ 'a' * 10**10 }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "padding": "{{ 'a'.ljust(10**10) }}",
    "a filter's padding": "{{ 'a'|center(1000000000) }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a format": "{{ '{:>1000000000}'.format(1) }}",
    "a set block": "{% set x %}{% for i in range(100000) %}{{ 'abcdefghij' * 1000 }}{% endfor %}{% endset %}",
    "output": "{% for i in range(100000) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
    "joining": "{{ range(100000)|map('string')|join('x' * 1000) }}",
    "~": DOUBLED.replace("EXPRESSION", "ns.s ~ ns.s"),
    "+": DOUBLED.replace("EXPRESSION", "ns.s + ns.s"),
    "replace": DOUBLED.replace("EXPRESSION", "ns.s.replace('a', 'aa')"),
    "join": DOUBLED.replace("EXPRESSION", "[ns.s, ns.s]|join"),
    "a list": DOUBLED.replace("'a'", "[1]").replace("EXPRESSION", "ns.s + ns.s"),
    "numbers": DOUBLED.replace("'a'", "3").replace("EXPRESSION", "ns.s * ns.s"),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.mark.parametrize(
    "template",
    [
        *templates.TEMPLATES.values(),
        "{{ bos_token }}{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m['content'] | trim }}"
        "{% if loop.last %}!{% endif %}{% endfor %}",
        "{% generation %}{{ messages[1].content }}{% endgeneration %}",
        "{{ messages | tojson }}{{ tools is none }}{{ unknown }}{{ messages[0].nothing }}",
        "{% for m in messages if m.role != 'system' %}{% if loop.first %}{% continue %}{% endif %}"
        "{{ m.role }}\n{% endfor %}",
        "{% macro say(m) %}{{ m.role ~ ': ' ~ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ say(m) }}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}"
        "{{ ns.n }}",
        "{{ '%s and %5d' % (messages[0].role, 7) }}{{ '{:>4}'.format(1) }}{{ 'ab' * 3 }}"
        "{{ messages[1].content.split(' ')[0] }}",
    ],
)
def test_the_text_is_that_of_transformers(template: str, tokenizer: Any) -> None:
    for ask in (True, False):
        own = tokenizer.apply_chat_template(PLAIN, chat_template=template, tokenize=False, add_generation_prompt=ask)
        assert sandbox.render(template, [TALK, TALK], tokenizer, ask) == [own, own]


def test_a_template_that_asks_for_the_date_gets_the_same_on_every_day(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "Today Date: {{ strftime_now('%d %b %Y') }}\n{{ messages[0].content }}"
    for day in (datetime(2030, 1, 1), datetime(2030, 1, 2)):
        monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda day=day: day))
        assert sandbox.render(template, [TALK], tokenizer, False) == ["Today Date: 26 Jul 2024\nBe brief."]


@pytest.mark.parametrize("name", [*ENDLESS, *LARGE])
def test_limits(name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    if name in LARGE:
        monkeypatch.setattr(sandbox, "SECONDS", 60.0)
        monkeypatch.setattr(sandbox, "CHARACTERS", 2_000_000)
    with pytest.raises(ConfigError, match="cannot be rendered") as caught:
        sandbox.render("{{ messages[0].role }}" + {**ENDLESS, **LARGE}[name], [TALK], tokenizer, False)
    assert caught.value.where == "task.template"


def test_each_conversation_has_limits_of_its_own(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHARACTERS", 500)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert len(set(sandbox.render(template, [TALK] * 100, tokenizer, False))) == 1


def test_nothing_of_one_conversation_is_seen_by_the_next(tokenizer: Any) -> None:
    template = "{% if seen is defined %}again{% endif %}{% set seen = 1 %}{{ messages[0].content }}"
    assert sandbox.render(template, [TALK, TALK], tokenizer, False) == [TALK[0].content] * 2


def test_a_loop_has_nothing_private(tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ loop.last }}{{ loop._iterable }}{{ loop.__class__ }}{% endfor %}"
    last = [number == len(TALK) - 1 for number in range(len(TALK))]
    assert sandbox.render(template, [TALK], tokenizer, False) == ["".join(map(str, last))]


def test_limits_hold_in_other_threads(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    said: list[str] = []

    def work() -> None:
        try:
            sandbox.render(ENDLESS["loops"], [TALK], tokenizer, False)
        except ConfigError as error:
            said.append(error.problem)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert said and "more than 0.2 s" in said[0]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.x.y }}", "no attribute"),
        ("{% include '/etc/passwd' %}", "refuses"),
        ("{% for", "unexpected"),
        ("{{ [].append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
    ],
)
def test_faults_are_errors_of_the_template(template: str, problem: str, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        sandbox.render(template, [TALK], tokenizer, False)
    assert caught.value.where == "task.template"
