"""The adapter alone, as plain peft loads it onto the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunery.export import adapters
from tunery.export.kind import SCALED, Kind, Subject
from tunery.report import markdown


class Adapter(Kind):
    """What the run saved, with the base by a name that can be found again."""

    summary = "the adapter, as plain peft loads it onto the base"

    def refuses(self, subject: Subject) -> str | None:
        if subject.method.name in ("full", "freeze", "bitfit"):
            return f"method {subject.method.name} has no adapter, its weights are the model's; use --to merged"
        if subject.loader is None:
            return "plain peft has no class for a pooled classifier; use --to onnx, or tunery.load"
        if adapters.source(subject) is None:
            way = "--to merged" if subject.method.merges else "tunery serve, which reads all methods"
            return f"peft has no format for what method {subject.method.name} trained here; use {way}"
        return None

    def precision(self, subject: Subject, dtype: str) -> str:
        return "f32" if dtype == subject.dtype else dtype

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        adapters.write(subject, folder, dtype)

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        return adapters.job(subject)

    def use(self, subject: Subject, target: Path) -> str:
        given = f", dtype=torch.{adapters.torch_name(subject)}"
        given += "".join(f", {key}={value!r}" for key, value in adapters.head(subject).items())
        lines = [
            "import torch",
            "from peft import PeftModel",
            f"from transformers import AutoTokenizer, {subject.loader}",
            "",
            f"base = {subject.loader}.from_pretrained({adapters.base_name(subject)!r}{given})",
            'model = PeftModel.from_pretrained(base, "this folder")',
            'tokenizer = AutoTokenizer.from_pretrained("this folder")',
            *SCALED.get(subject.task.name, ()),
        ]
        text = "An adapter in peft's format:\n\n" + markdown.fenced("\n".join(lines))
        if subject.base.quantised:
            text += f"\n\nIt was trained on the base in {subject.base.quantised}: load it with `BitsAndBytesConfig` so."
        return text
