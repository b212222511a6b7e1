"""A whole model in safetensors, as plain transformers loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunery.errors import ConfigError
from tunery.export import tokens
from tunery.export.kind import DTYPES, Kind, Subject
from tunery.models import quantise, weights
from tunery.models.attention import reset_attention
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
        ]
        return "A whole model, as `transformers` loads it:\n\n" + markdown.fenced("\n".join(lines))


def refusal(subject: Subject) -> str | None:
    """Why there is no stock model that computes this run's function, with the way out."""
    if subject.loader is None:
        return (
            "transformers has no class that pools as this classifier does; "
            "use --to onnx, or train with task.pooling=stock"
        )
    if not subject.method.merges:
        return f"method {subject.method.name} cannot be merged; use tunery serve, or train with method=lora"
    return None


def merged(subject: Subject) -> Any:
    """The tuned model without a trace of its method or of tunery, in fp32. Raises ConfigError: the method cannot."""
    tuned = subject.load()
    model: Any = tuned.model
    if quantise.is_quantised(model):
        if reason := tuned.method.merge(model):
            raise ConfigError(reason, "use --to adapter", "--to")
        model = model.float()
    else:
        model = model.float()
        if reason := tuned.method.merge(model):
            raise ConfigError(reason, "use --to adapter", "--to")
    reset_attention(model)
    for module in model.modules():  # fast norms and other stand-ins of training
        vars(module).pop("forward", None)
    return model.eval().requires_grad_(False)


def generation(subject: Subject, before: Any) -> Any:
    """The base's settings, ending answers where the run learnt to."""
    stops = list(subject.task.stop_ids(subject.tokenizer))
    before.eos_token_id = stops[0] if len(stops) == 1 else stops
    before.pad_token_id = subject.tokenizer.pad_token_id
    return before
