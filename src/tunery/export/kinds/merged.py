"""A whole model in safetensors, as plain transformers loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunery.export import tokens
from tunery.export.kind import DTYPES, SCALED, Kind, Subject
from tunery.export.merging import merged, refusal
from tunery.models import weights
from tunery.report import markdown


class Merged(Kind):
    """Merged in fp32 into the very weights that the adapter was trained on, then rounded once."""

    summary = "a whole model in safetensors, as plain transformers loads it"

    def refuses(self, subject: Subject) -> str | None:
        return refusal(subject)

    def precision(self, subject: Subject, dtype: str) -> str:
        whole = subject.method.name in ("full", "freeze", "bitfit")
        return "f32" if whole and dtype == subject.dtype else dtype

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        model: Any = merged(subject).to(DTYPES[dtype])
        model.config.dtype = DTYPES[dtype]
        if getattr(model, "generation_config", None) is not None and subject.task.output == "text":
            model.generation_config = generation(subject, model.generation_config)
        with weights.disk_errors():
            model.save_pretrained(folder)
        tokens.save(subject, folder)

    def use(self, subject: Subject, target: Path) -> str:
        lines = [
            f"from transformers import AutoTokenizer, {subject.loader}",
            "",
            f'model = {subject.loader}.from_pretrained("this folder")',
            'tokenizer = AutoTokenizer.from_pretrained("this folder")',
            *SCALED.get(subject.task.name, ()),
        ]
        return "A whole model, as `transformers` loads it:\n\n" + markdown.fenced("\n".join(lines))


def generation(subject: Subject, before: Any) -> Any:
    """The base's settings, ending answers where the run learnt to."""
    stops = list(subject.task.stop_ids(subject.tokenizer))
    before.eos_token_id = stops[0] if len(stops) == 1 else stops
    before.pad_token_id = subject.tokenizer.pad_token_id
    return before
