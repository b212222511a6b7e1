"""The adapter for a vLLM server: its folder, a launch script, a config file for ``vllm serve --config``.

vLLM needs a GPU to be useful and cannot be a dependency, so what it demands of an adapter is checked here: it takes
plain LoRA on decoders, of a rank up to one of ``RANKS``, without trained heads or biases and without DoRA (its
``vllm.lora.peft_helper`` and ``vllm.config.lora``, version 0.14). The parity gate loads the same files with peft.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from tunery.export import adapters
from tunery.export.kind import Kind, Subject
from tunery.models import weights
from tunery.report import markdown
from tunery.rundir import write_text

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of ``--max-lora-rank``."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
"""Kinds of base that take LoRA there and whose layers are named as below."""
TARGETS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("qkv_proj", "gate_up_proj", "embed_tokens", "lm_head"),
)
LAUNCH, CONFIG, TEMPLATE = "launch.sh", "config.yaml", "chat_template.jinja"


class Vllm(Kind):
    """``launch.sh`` serves base and adapter; ``config.yaml`` has the same settings."""

    summary = "the adapter with a launch script and a config file for vllm serve"

    def refuses(self, subject: Subject) -> str | None:
        found = adapters.source(subject)
        if subject.method.merges and (found is None or subject.method.name != "lora"):
            return f"vLLM loads LoRA alone, not method {subject.method.name}; use --to merged and vllm serve FOLDER"
        if found is None or subject.method.name != "lora":
            return f"vLLM loads LoRA alone, not method {subject.method.name}; use tunery serve, or method=lora"
        if subject.base.quantised:
            return "vLLM would load another base than the quantised one it was trained on; use --to merged"
        if subject.loader != "AutoModelForCausalLM":
            return f"vLLM takes adapters on language models that write text, not {subject.model_type}; use tunery serve"
        family = subject.base.config.model_type
        if family not in FAMILIES:
            return f"LoRA in vLLM is known for {', '.join(FAMILIES)}, not for {family}; use --to merged"
        return _demands(json.loads((found / adapters.CONFIG).read_text(encoding="utf-8")), found / adapters.WEIGHTS)

    def precision(self, subject: Subject, dtype: str) -> str:
        return "f32" if dtype == subject.dtype else dtype

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        adapters.write(subject, folder, dtype)
        settings = _settings(subject, folder)
        write_text(folder / CONFIG, _HEAD + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_text(folder / LAUNCH, _script(settings))
        (folder / LAUNCH).chmod(0o755)

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        return adapters.job(subject)

    def use(self, subject: Subject, target: Path) -> str:
        lines = ["./launch.sh --port 8000", "", "# or, from this folder:", f"vllm serve --config {CONFIG}"]
        name = json.dumps(subject.name)
        return (
            f"Base and adapter on one vLLM server; in requests the adapter is `model: {name}`:\n\n"
            f"{markdown.fenced(chr(10).join(lines))}\n\nThe files were compared with the run through peft: vLLM itself "
            "was not at hand, so what its LoRA loader demands (rank, layers, no trained head, no DoRA) was checked."
        )


_HEAD = "# vllm serve --config config.yaml, from this folder\n"


def _settings(subject: Subject, folder: Path) -> dict[str, Any]:
    """Options of ``vllm serve``; paths are relative to the folder."""
    rank = json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8"))["r"]
    found: dict[str, Any] = {"model": adapters.base_name(subject)}
    if subject.config.model.revision:
        found["revision"] = subject.config.model.revision
    found |= {"tokenizer": ".", "dtype": adapters.torch_name(subject), "enable-lora": True}
    found |= {"max-lora-rank": next(allowed for allowed in RANKS if allowed >= rank)}
    found["lora-modules"] = [f"{re.sub('[=,]', '-', subject.name)}=."]  # NAME=PATH, or JSON if there is a comma
    if (folder / TEMPLATE).is_file():
        found["chat-template"] = TEMPLATE
    return found


def _script(settings: dict[str, Any]) -> str:
    """The same as a command, which works from any folder and passes further options on."""
    words = ["exec", "vllm", "serve", shlex.quote(str(settings["model"]))]
    for key, value in settings.items():
        if key != "model":
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{key}", *(shlex.quote(str(one)) for one in values)]
    return f'#!/bin/sh\ncd "$(dirname "$0")" || exit 1\n{" ".join(words)} "$@"\n'


def _demands(settings: dict[str, Any], file: Path) -> str | None:
    """What vLLM's LoRA loader refuses, before it does."""
    ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
    if max(ranks) > RANKS[-1]:
        return f"vLLM takes ranks up to {RANKS[-1]}, this is {max(ranks)}; use --to merged"
    if settings.get("use_dora"):
        return "vLLM has no DoRA; use --to merged and vllm serve FOLDER"
    if settings.get("modules_to_save"):
        return "vLLM takes no adapter with trained heads or embeddings; use --to merged and vllm serve FOLDER"
    if settings.get("bias", "none") != "none" or settings.get("lora_bias"):
        return "vLLM takes no adapter with biases; use --to merged and vllm serve FOLDER"
    strange = sorted({name for name in settings["target_modules"] if name.rpartition(".")[2] not in TARGETS})
    if strange:
        return f"vLLM has no LoRA for {strange[0]}; use --to merged and vllm serve FOLDER"
    others = [name for name in weights.read(file) if ".lora_A." not in name and ".lora_B." not in name]
    return f"the adapter holds {others[0]}, which vLLM cannot load; use --to merged" if others else None
