"""Heads and how to compute no more of them than is needed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "cls", "max", "last"]


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of peft's wrapper (peft changes it in place; the wrapper only saves)."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return inner  # type: ignore[no-any-return]


def selected_logits(model: Any, keep: Tensor, **inputs: Tensor) -> Tensor:
    """Logits only where they are needed.

    A hook narrows what goes into the output layer, so everything around it (softcapping, logit scales, a
    trained or wrapped head) stays as the architecture wants it. With a vocabulary of 49,152 and a fifth of
    the positions supervised, this saves most of the head's time and nearly all of its memory.

    Args:
        keep: [rows, length] bool.

    Returns:
        [number of true positions, vocabulary], in row-major order.
    """
    head = model.get_output_embeddings()

    def narrow(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][keep], *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return logits


CHUNK = 16
"""Rows of logits that are worked on at a time: 16 x 49,152 fp32 values stay in a core's cache (60 ms for 768 rows
where 256 at a time took 310)."""


class _CrossEntropy(torch.autograd.Function):
    """Summed cross-entropy whose gradient is made in the forward pass, some rows at a time.

    Autograd's own keeps three fp32 tensors of the logits' size; with 49,152 words and 1,600 targets those are
    a gigabyte. This keeps one tensor, in the dtype of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rows: int) -> Tensor:
        total = logits.new_zeros((), dtype=torch.float32)
        grad = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            log_shares = logits[part].float().log_softmax(-1)
            picked = targets[part].unsqueeze(1)
            total -= log_shares.gather(1, picked).sum()
            if grad is not None:
                shares = log_shares.exp_()
                shares.scatter_add_(1, picked, shares.new_full(picked.shape, -1.0))
                grad[part] = shares
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad.mul_(upstream), None, None  # in place: the graph is walked once


def token_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[targets, vocabulary], [targets] → sum of cross-entropies in fp32, number of targets."""
    total: Tensor = _CrossEntropy.apply(logits, targets, CHUNK)  # type: ignore[no-untyped-call]
    return total, torch.tensor(targets.numel(), device=targets.device)


def next_token_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss of a decoder at the supervised positions of padded rows, or of rows end to end (``data.batch.join``).
    → sum, count; both 0 if nothing is supervised.
    """
    shifted = batch["labels"][:, 1:]
    keep = torch.zeros_like(batch["labels"], dtype=torch.bool)
    keep[:, :-1] = shifted != -100
    if "ends" in batch:
        inputs = {"position_ids": batch["position_ids"], "cu_seq_lens_q": batch["ends"]}
    else:
        inputs = {"attention_mask": batch["attention_mask"]}
    logits = selected_logits(model, keep, input_ids=batch["input_ids"], **inputs)
    return token_loss(logits, shifted[keep[:, :-1]])


@torch.no_grad()
def row_losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Summed loss of a decoder at the supervised positions of each row: [rows], fp32, no gradient."""
    shifted = batch["labels"][:, 1:]
    keep = torch.nn.functional.pad(shifted != -100, (0, 1))
    logits = selected_logits(model, keep, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    targets = shifted[keep[:, :-1]]
    losses = torch.empty(len(targets), dtype=torch.float32, device=targets.device)
    for start in range(0, len(targets), CHUNK):
        part = slice(start, start + CHUNK)
        losses[part] = torch.nn.functional.cross_entropy(logits[part].float(), targets[part], reduction="none")
    rows = keep.nonzero()[:, 0]
    return losses.new_zeros(len(keep)).index_add_(0, rows, losses)


def answer_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss of an encoder-decoder on ``answer``, shifted right as the architecture does. → sum, count."""
    answer = batch["answer"]
    keep = answer != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=answer)
    return token_loss(selected_logits(model, keep, **inputs), answer[keep])


class PooledClassifier(nn.Module):
    """Encoder or decoder → one pooled vector a row → linear head.

    transformers has no class that pools by the mean, which is what sentence encoders were trained with
    (their ``pooler`` is often untrained). Output: [rows, labels].
    """

    def __init__(self, backbone: Any, labels: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        dtype, device = next(backbone.parameters()).dtype, next(backbone.parameters()).device
        self.classifier = nn.Linear(backbone.config.hidden_size, labels, dtype=dtype, device=device)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        logits: Tensor = self.classifier(self.dropout(pool(hidden, attention_mask, self.pooling)))
        return logits

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()  # type: ignore[no-any-return]


def pool(hidden: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """[rows, length, hidden], [rows, length] → [rows, hidden]; padding on either side does not count."""
    if how == "mean":
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
    if how == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(hidden.dtype).min).max(1).values
    positions = torch.arange(mask.shape[1], device=mask.device)
    index = (positions * mask).argmax(1) if how == "last" else mask.argmax(1)  # cls: the first real token
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


def row_vectors(model: nn.Module, batch: dict[str, Tensor], pooling: Pooling) -> Tensor:
    """[rows, hidden]: what the tuned backbone makes of each row, before any head.

    Args:
        pooling: for a model whose head does not pool itself.
    """
    inner: Any = unwrap(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    pooled = isinstance(inner, PooledClassifier)
    hidden = (inner.backbone if pooled else inner.base_model)(**inputs).last_hidden_state
    return pool(hidden, batch["attention_mask"], inner.pooling if pooled else pooling)


def row_head(
    base: Any, outputs: int, pooling: str, names: dict[int, str], multi: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    """A model that scores whole rows → model, new modules.

    The stock class of the architecture where its pooling is what the base was trained with, so that plain
    transformers can load the result; a pooled head of ours otherwise.
    """
    how: Any = base.pooling() if pooling == "auto" else pooling
    if how == "stock":
        return base.load(  # type: ignore[no-any-return]
            "sequence_classification",
            num_labels=outputs,
            id2label=names,
            label2id={name: i for i, name in names.items()},
            problem_type="multi_label_classification" if multi else None,
        )
    backbone, _ = base.load("backbone")
    dropout = getattr(backbone.config, "hidden_dropout_prob", None) or 0.0
    return PooledClassifier(backbone, outputs, how, dropout).eval(), ("classifier",)


def row_logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """[rows, outputs], in fp32 whatever the model computes in."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    out: Any = model(**inputs)
    logits: Tensor = getattr(out, "logits", out)
    return logits.float()
