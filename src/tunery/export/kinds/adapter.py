"""The adapter alone, as plain peft loads it onto the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tunery.export import tokens
from tunery.export.kind import DTYPES, Kind, Subject
from tunery.models import quantise, weights
from tunery.models.load import HUB_ID
from tunery.report import markdown
from tunery.rundir import write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Adapter(Kind):
    """What the run saved, with the base by a name that can be found again."""

    summary = "the adapter, as plain peft loads it onto the base"

    def refuses(self, subject: Subject) -> str | None:
        if subject.method.name in ("full", "freeze", "bitfit"):
            return f"method {subject.method.name} has no adapter, its weights are the model's; use --to merged"
        if subject.loader is None:
            return "plain peft has no class for a pooled classifier; use --to onnx, or tunery.load"
        if source(subject) is None:
            way = "--to merged" if subject.method.merges else "tunery serve, which reads all methods"
            return f"peft has no format for what method {subject.method.name} trained here; use {way}"
        return None

    def precision(self, subject: Subject, dtype: str) -> str:
        return "f32" if dtype == subject.dtype else dtype

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        found = source(subject)
        assert found is not None
        settings = json.loads((found / CONFIG).read_text(encoding="utf-8"))
        settings |= {"base_model_name_or_path": base_name(subject), "revision": subject.config.model.revision}
        write_json(folder / CONFIG, settings)
        if dtype == subject.dtype:
            shutil.copyfile(found / WEIGHTS, folder / WEIGHTS)
        else:
            stored = weights.read(found / WEIGHTS)
            weights.save({name: tensor.to(DTYPES[dtype]) for name, tensor in stored.items()}, folder / WEIGHTS)
        tokens.save(subject, folder)

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        base: dict[str, Any] = {"folder": str(subject.base.folder), "dtype": _torch_name(subject)}
        base["config"] = head(subject)
        if subject.base.quantised:
            base["quantise"] = bits(subject)
        return {"loader": subject.loader, "base": base}

    def use(self, subject: Subject, target: Path) -> str:
        arguments = {"dtype": f"torch.{_torch_name(subject)}", **{k: repr(v) for k, v in head(subject).items()}}
        given = "".join(f", {key}={value}" for key, value in arguments.items())
        lines = [
            "import torch",
            "from peft import PeftModel",
            f"from transformers import AutoTokenizer, {subject.loader}",
            "",
            f"base = {subject.loader}.from_pretrained({base_name(subject)!r}{given})",
            'model = PeftModel.from_pretrained(base, "this folder")',
            'tokenizer = AutoTokenizer.from_pretrained("this folder")',
        ]
        text = "An adapter in peft's format:\n\n" + markdown.fenced("\n".join(lines))
        if subject.base.quantised:
            text += f"\n\nIt was trained on the base in {subject.base.quantised}: load it with `BitsAndBytesConfig` so."
        return text


def source(subject: Subject) -> Path | None:
    """Where the run has its weights in peft's format."""
    folder = subject.run.dir.model
    return next((place for place in (folder, folder / "peft") if (place / CONFIG).is_file()), None)


def base_name(subject: Subject) -> str:
    """The base's id on the hub, or the folder it was read from: a pack is not what the hub has (its weights come from a
    quantised file).
    """
    name = subject.config.model.name
    on_hub = HUB_ID.fullmatch(name) and not Path(name).exists()
    return name if on_hub else str(Path(subject.base.folder).absolute())


def head(subject: Subject) -> dict[str, Any]:
    """Arguments by which plain transformers makes a head of the same shape."""
    if not subject.head or subject.outputs is None:
        return {}
    return {"num_labels": len(subject.outputs), "id2label": subject.outputs}


def bits(subject: Subject) -> dict[str, Any]:
    """Arguments of ``BitsAndBytesConfig`` as the run's base was loaded."""
    import copy

    import transformers

    model_class = getattr(transformers, str(subject.loader))
    keep = quantise.kept(model_class, copy.deepcopy(subject.base.config))
    made = quantise.settings(str(subject.base.quantised), subject.base.dtype, keep)
    return {key: value for key, value in made.to_dict().items() if key != "quant_method" and not key.startswith("_")}


def _torch_name(subject: Subject) -> str:
    return str(subject.base.dtype).removeprefix("torch.")
