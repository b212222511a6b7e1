"""Ollama's Modelfile: the Go template renders what the run's Jinja template does, and no text can break the file.

Neither Ollama nor Go is here, so the part of Go's template language that is written, and Ollama's way of reading a
Modelfile (parser/parser.go), stand in below.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import transformers

import tiny
from small import one_thread, questions, train, write  # noqa: F401
from tunery.data.render import render_text
from tunery.data.templates import TEMPLATES
from tunery.errors import ConfigError
from tunery.export import llama, ollama, turns
from tunery.protocols import Message

ACTION = re.compile(r'\{\{(-?)\s*((?:"(?:\\.|[^"\\])*"|[^"])*?)\s*\}\}', re.DOTALL)
SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NASTY = 'Say """no""" to {{ .System }}, \\"quotes\\"\n\u3000\u200b“完”\u2028 and 🙂 \x07 """'


class Go:
    """Executes the template of ``ollama.template`` over messages: literals, .Content, range, if, else if, end."""

    def __init__(self, source: str) -> None:
        self.nodes: list[tuple[str, str]] = []
        end = 0
        for found in ACTION.finditer(source):
            text = source[end : found.start()]
            self.nodes += [("text", text.rstrip() if found[1] else text), ("action", found[2])]
            end = found.end()
        self.nodes.append(("text", source[end:]))

    def render(self, messages: Sequence[Message]) -> str:
        system = "\n\n".join(m.content for m in messages if m.role == "system")
        return self._block(0, len(self.nodes), {"System": system, "Messages": messages})

    def _close(self, start: int) -> list[int]:
        """Places of the else-ifs and the end that belong to the block opened at ``start``."""
        depth, places = 0, []
        for place in range(start + 1, len(self.nodes)):
            kind, value = self.nodes[place]
            if kind == "action" and value.split()[0] in ("if", "range"):
                depth += 1
            elif kind == "action" and depth == 0 and value.split()[0] in ("else", "end"):
                places.append(place)
                if value == "end":
                    return places
            elif kind == "action" and value == "end":
                depth -= 1
        raise AssertionError("no end")

    def _block(self, start: int, end: int, state: dict[str, Any]) -> str:
        out, place = "", start
        while place < end:
            kind, value = self.nodes[place]
            if kind == "text":
                out += value
            elif value.startswith('"'):
                out += json.loads(re.sub(r"\\U000([0-9a-f]{5})", lambda m: json.dumps(chr(int(m[1], 16)))[1:-1], value))
            elif value == ".Content":
                out += state["message"].content
            elif value == "range $i, $_ := .Messages":
                close = self._close(place)[-1]
                for number, message in enumerate(state["Messages"]):
                    out += self._block(place + 1, close, {**state, "message": message, "i": number})
                place = close
            elif value.startswith("if "):
                marks = [place, *self._close(place)]
                for mark, after in pairwise(marks):
                    if self._holds(self.nodes[mark][1].removeprefix("else ").removeprefix("if "), state):
                        out += self._block(mark + 1, after, state)
                        break
                place = marks[-1]
            else:
                raise AssertionError(value)
            place += 1
        return out

    def _holds(self, condition: str, state: dict[str, Any]) -> bool:
        if condition == "not .System":
            return not state["System"]
        if found := re.fullmatch(r'eq \.Role "(\w+)"', condition):
            return bool(state["message"].role == found[1])
        assert condition == 'and (eq (len (slice $.Messages $i)) 1) (ne .Role "assistant")'
        return state["i"] == len(state["Messages"]) - 1 and state["message"].role != "assistant"


def parsed(text: str) -> list[tuple[str, str]]:
    """A Modelfile's commands as Ollama reads them: values in quotes or bare, what is not printable gone."""
    found, place = [], 0
    while place < len(text):
        line = text[place:].split("\n", 1)[0]
        if not line or line.startswith("#"):
            place += len(line) + 1
            continue
        name, rest = line.split(" ", 1)
        start = place + len(name) + 1
        if rest.startswith('"""'):
            end = re.compile(r'"""[ \t]*(\n|$)').search(text, start + 3)
            assert end, "no end"
            value, place = text[start + 3 : end.start()], end.end()
        else:
            value, place = rest.strip('"'), start + len(rest) + 1
        kept = (c for c in value if c in "\n\t " or unicodedata.category(c)[0] in "LMNPS")
        found.append((name, "".join(kept)))
    return found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny.tiny_llama(tmp_path_factory.mktemp("llama")))


CONVERSATIONS = [
    [("user", "Where is it?")],
    [("system", "Be brief."), ("user", "你好\n\nthere")],
    [("user", "a"), ("assistant", "b"), ("user", "{{ c }}")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", 'e """')],
]


@pytest.mark.parametrize("name", [*TEMPLATES, "smollm", "tiny"])
def test_known_templates_render_the_same_in_go(name: str, tokenizer: Any) -> None:
    template = {**TEMPLATES, "smollm": SMOLLM, "tiny": tiny.CHATML}[name]
    found = turns.read(template, tokenizer)
    assert found is not None
    text = dict(parsed(ollama.modelfile("m.gguf", found, None, [])))["TEMPLATE"]
    for conversation in CONVERSATIONS:
        messages = [Message(role, content) for role, content in conversation]  # type: ignore[arg-type]
        assert Go(text).render(messages) == render_text(messages, tokenizer, template, ask=True)


def test_the_runs_system_prompt_is_the_default_and_cannot_break_the_file(tokenizer: Any) -> None:
    found = turns.read(SMOLLM, tokenizer)
    assert found is not None
    made = ollama.modelfile("m.gguf", found, NASTY, ["<|im_end|>"], ["a note\nFROM /etc/passwd"])
    commands = parsed(made)
    assert [name for name, _ in commands] == ["FROM", "TEMPLATE", "PARAMETER", "PARAMETER", "PARAMETER"]
    assert made.splitlines()[0] == "# a note FROM /etc/passwd"
    text = dict(commands)["TEMPLATE"]
    asked = [Message("user", "?")]
    expected = render_text([Message("system", NASTY), *asked], tokenizer, SMOLLM, ask=True)
    assert Go(text).render(asked) == expected
    assert "You are kind" not in Go(text).render(asked)
    other = [Message("system", "other"), *asked]
    assert Go(text).render(other) == render_text(other, tokenizer, SMOLLM, ask=True)


def test_one_system_turn_whether_the_modelfile_is_read_or_the_gguf_beside_it(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = pytest.importorskip("gguf")
    monkeypatch.setattr(llama, "find_spec", lambda name: None)
    rows = write(tmp_path / "rows.jsonl", questions(8))
    system = "请用中文回答 🙂"
    run = train(
        tmp_path / "runs", tiny_llama, rows, method="lora", task__name="instruct", task__system=system,
        train__max_steps=1,
    )  # fmt: skip
    folder = Path(run.export("ollama", unverified=True)["path"])
    text = dict(parsed((folder / "Modelfile").read_text(encoding="utf-8")))["TEMPLATE"]
    (file,) = folder.glob("*.gguf")
    inside = gguf.GGUFReader(file).get_field("tokenizer.chat_template").contents()
    assert system in inside and "\\u" not in inside
    tokenizer = run.tuned.tokenizer
    for conversation in CONVERSATIONS:
        messages = [Message(role, content) for role, content in conversation]  # type: ignore[arg-type]
        whole = messages if messages[0].role == "system" else [Message("system", system), *messages]
        expected = render_text(whole, tokenizer, tiny.CHATML, ask=True)
        assert Go(text).render(messages) == render_text(messages, tokenizer, inside, ask=True) == expected
        assert expected.count("<|im_start|>system") == 1


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{{ messages | length }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        "{% for m in messages[-1:] %}{{ m.content }}\n{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_is_more_than_turns_has_no_pieces(template: str, tokenizer: Any) -> None:
    assert turns.read(template, tokenizer) is None


def test_a_template_without_system_turns_is_written_without_them(tokenizer: Any) -> None:
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATES["chatml"]
    )
    found = turns.read(refusing, tokenizer)
    assert found is not None and found.system is None
    assert '"system"' not in ollama.template(found, None)


def test_a_run_with_a_template_of_its_own_kind_is_refused(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "require", lambda: None)
    odd = "{% for m in messages %}{{ loop.index }}. {{ m.role }}: {{ m.content }}\n{% endfor %}"
    odd += "{% if add_generation_prompt %}{{ messages | length + 1 }}. assistant: {% endif %}"
    rows = write(tmp_path / "rows.jsonl", questions(8))
    run = train(
        tmp_path / "runs", tiny_llama, rows, method="lora", task__name="instruct", task__template=odd,
        train__max_steps=1,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"more than put turns one after the other.*use --to gguf"):
        run.export("ollama")
    assert not (run.path / "export").exists()
