"""The tokenizer that goes with an export: the run's, with the chat template that was trained with."""

from __future__ import annotations

import json
from pathlib import Path

from tunery.data import soft
from tunery.export.kind import Subject
from tunery.protocols import Example, Message
from tunery.rundir import write_text

BOS = "{{ bos_token }}"


def save(subject: Subject, folder: Path) -> None:
    """``tokenizer.json``, ``tokenizer_config.json`` and, for runs with one, ``chat_template.jinja``."""
    tokenizer = subject.tokenizer
    template = chat_template(subject)
    before = tokenizer.chat_template
    try:
        if template is not None:
            tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = before
    if template is not None and not (folder / "chat_template.jinja").is_file():
        write_text(folder / "chat_template.jinja", template)


def chat_template(subject: Subject) -> str | None:
    """As ``bare_template``, with the system prompt that the run puts before conversations without one."""
    template, system = bare_template(subject), getattr(subject.config.task, "system", None)
    if template is None or not system:
        return template
    # as it is written: llama.cpp's Jinja knows no escapes of other characters
    first = "{'role': 'system', 'content': " + json.dumps(system, ensure_ascii=False) + "}"
    head = "{%- if messages[0]['role'] != 'system' %}{%- set messages = [" + first + "] + messages %}{%- endif %}"
    return head + template


def bare_template(subject: Subject) -> str | None:
    """The run's template as other programs need it: without soft tokens, and with the BOS that the model was trained to
    see in front. Programs that render a template take every special token from it; tunery adds a BOS by itself.
    """
    state = subject.task.state()
    if not state.get("template"):
        return None
    template: str = soft.without(state["template"])
    tokenizer = subject.tokenizer
    if tokenizer.bos_token_id is None:
        return template
    asked = Example("<question>", 1, messages=(Message("user", "?"),), text="?")
    ids = list(subject.task.prompt(asked, tokenizer, 1 << 20))
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], chat_template=template, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    missing = ids[:1] == [tokenizer.bos_token_id] and list(rendered[:1]) != ids[:1]
    return BOS + template if missing else template
