"""What the kinds of export for llama.cpp share: the merged model, the template in the file, and what is refused."""

from __future__ import annotations

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
    """The run's template for llama.cpp, which would put in a BOS of its own where the tokenizer has none."""
    template = tokens.chat_template(subject)
    if template is not None and subject.tokenizer.bos_token_id is None and "bos_token" in template:
        return "{%- set bos_token = '' %}" + template
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
