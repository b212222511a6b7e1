"""Chat templates by name: Jinja over ``messages``, as in ``tokenizer.chat_template``.

A template that the user gives is Jinja as well, rendered within limits (``sandbox.py``). A model without a chat
template of its own gets ``human_assistant``, which needs no special tokens. There the space before an answer is part of
it: " Paris" is one token, which a prompt that ends with a space could not be followed by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunery.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "model"
"""The model's own chat template."""

_TURNS = (
    "{{% for m in messages %}}"
    "{{% if m.role == 'system' %}}{system}{{% elif m.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{ask}{{% endif %}}"
)


def _turns(system: str, user: str, ask: str, apart: str = "") -> str:
    """A template from its pieces; an assistant turn is the generation prompt, the answer and the end token.

    ``apart`` stands between the two and is part of the answer.
    """
    assistant = ask + apart + "{{ m.content }}{{ eos_token }}\n"
    return _TURNS.format(system=system, user=user, assistant=assistant, ask=ask)


TEMPLATES: dict[str, str] = {
    "human_assistant": _turns("{{ m.content }}\n\n", "Human: {{ m.content }}\n", "Assistant:", " "),
    "alpaca": _turns("{{ m.content }}\n\n", "### Instruction:\n{{ m.content }}\n\n", "### Response:\n"),
    "zh_instruct": _turns("{{ m.content }}\n\n", "指令：{{ m.content }}\n", "输出："),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
}


def find(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Jinja text of a template: a name of this module, ``model``, or Jinja itself.

    Raises ConfigError if it is none of them.
    """
    if name == MODEL:
        own = tokenizer.chat_template
        if isinstance(own, dict):
            own = own.get("default")
        return str(own) if own else TEMPLATES["human_assistant"]
    if name in TEMPLATES:
        return TEMPLATES[name]
    if "{" in name and "messages" in name:
        return name
    raise ConfigError(
        f"{name[:60]!r} is not a template",
        f"use {', '.join([MODEL, *TEMPLATES])}, or Jinja text over 'messages'",
        "task.template",
    )
