"""The tuned model without a trace of its method: what kinds that write whole models start from."""

from __future__ import annotations

from typing import Any

from tunery.errors import ConfigError
from tunery.export.kind import Subject
from tunery.models import quantise
from tunery.models.attention import reset_attention


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


def plain(subject: Subject) -> Any:
    """The tuned model in fp32 with its method in it, for kinds that write what it computes. Raises ConfigError."""
    model: Any = subject.load().model
    if quantise.is_quantised(model):
        raise ConfigError(f"method {subject.method.name} on a quantised base", "train with method=lora", "--to")
    reset_attention(model)
    return model.float().eval().requires_grad_(False)
