"""What the kinds of export for llama.cpp share: the merged model, the template in the file, and what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunery.errors import ConfigError, ModelError
from tunery.export import gguf_file, gguf_layout, gguf_vocab, tokens
from tunery.export.kind import Subject
from tunery.export.merging import merged, refusal

PACKAGE, EXTRA = "llama_cpp", 'pip install "tunery[llama]" (it compiles llama.cpp, about five minutes)'


def require() -> None:
    """Raises ModelError, which names the extra, if there is no llama.cpp to prove an export with."""
    if find_spec(PACKAGE) is None:
        raise ModelError("llama-cpp-python is not installed, which loads the export for its proof", EXTRA, "--to")


def refuses(subject: Subject) -> str | None:
    """Why this run is none for llama.cpp, with the way out, or None."""
    if subject.loader != "AutoModelForCausalLM":
        return f"llama.cpp writes text, and this is a run of task {subject.task.name}; use --to merged"
    if reason := refusal(subject):
        return reason
    try:
        gguf_layout.layout_of(subject.base.config)
        gguf_vocab.vocabulary(subject.tokenizer, int(subject.base.config.vocab_size))
    except ConfigError as error:
        return f"{error.problem}; {error.hint}"
    return None


def stop_ids(subject: Subject) -> tuple[int, ...]:
    """Ids that end an answer; none for a run that writes no answers."""
    return tuple(subject.task.stop_ids(subject.tokenizer)) if subject.task.output == "text" else ()


def chat_template(subject: Subject) -> str | None:
    """The run's template, with the system prompt that the run puts before conversations without one."""
    template = tokens.chat_template(subject)
    system = getattr(subject.config.task, "system", None)
    if template is None:
        return None
    if subject.tokenizer.bos_token_id is None and "bos_token" in template:
        template = "{%- set bos_token = '' %}" + template  # llama.cpp would put in a token of its own
    if system is not None:
        first = "{'role': 'system', 'content': " + json.dumps(system) + "}"
        head = "{%- if messages[0]['role'] != 'system' %}{%- set messages = [" + first + "] + messages %}{%- endif %}"
        template = head + template
    return template


def about(subject: Subject, name: str = "") -> dict[str, str]:
    """Names and values of a file's ``general`` section."""
    base = subject.manifest["base"]
    found = {
        "name": name or subject.name,
        "finetune": subject.method.name,
        "basename": str(base.get("hub") or base["name"]),
        "license": str(base.get("licence") or ""),
        "description": f"{base['name']} tuned by tunery, run {subject.name}, method {subject.method.name}",
    }
    return {key: value for key, value in found.items() if value}


def write(subject: Subject, path: Path, dtype: Any) -> None:
    """The merged model as one file. Raises ConfigError."""
    gguf_file.write(
        path, merged(subject), subject.tokenizer, dtype, chat_template(subject), stop_ids(subject), about(subject)
    )
