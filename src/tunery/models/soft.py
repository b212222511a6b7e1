"""Learnt vectors in the place of token embeddings, at any position of the input.

Ids from ``SOFT`` on stand for them (see ``data.soft``). Every input embedding of the model puts the vectors in; all
other ids are embedded as before, to the bit. Vectors stand for what an embedding gives, scaled where the model's
embedding scales. The model's length does not change, so padding, positions, masks, spans and heads need not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunery.errors import ModelError
from tunery.models import swap, weights
from tunery.protocols import SOFT

FILE, PEFT_FILE = "soft_prompt.safetensors", "adapter_model.safetensors"
_PEFT_KEY = "prompt_embeddings"
_SLOT = "soft_prompt"
_SAMPLE = 4096
"""Rows of the vocabulary that tell the size of its embeddings."""


class Vectors(nn.Module):
    """Learnt as they are (Lester et al. 2021, arXiv:2104.08691). start: [tokens, size]."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.detach().clone())

    def forward(self) -> Tensor:
        return self.weight


class PromptEncoder(nn.Module):
    """Made by a small network out of learnt inputs (Liu et al. 2021, arXiv:2103.10385), in training and afterwards.

    ``lstm`` reads the inputs in both directions, so that neighbours depend on each other. The vectors start with the
    deviation ``deviation``, that of the vocabulary's embeddings. Output: [tokens, size].
    """

    def __init__(
        self, tokens: int, size: int, kind: Literal["mlp", "lstm"], hidden: int, dropout: float, deviation: float
    ) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(tokens, size))
        self.lstm = None
        if kind == "lstm":
            half = max(hidden // 2, 1)  # in each direction
            self.lstm = nn.LSTM(size, half, num_layers=2, dropout=dropout, bidirectional=True, batch_first=True)
        last = nn.Linear(hidden, size)
        first = nn.Linear(size if self.lstm is None else 2 * self.lstm.hidden_size, hidden)
        self.mlp = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)
        self.eval()
        with torch.no_grad():
            last.bias.zero_()
            last.weight.mul_(deviation / self().std().clamp(min=1e-6))

    def forward(self) -> Tensor:
        read = self.inputs.unsqueeze(0)
        if self.lstm is not None:
            read, _ = self.lstm(read)
        vectors: Tensor = self.mlp(read).squeeze(0)
        return vectors


class SoftPrompt(nn.Module):
    """The sets of vectors of a model, by name; None is active where the model is the bare base."""

    def __init__(self, head: list[str]) -> None:
        super().__init__()
        self.sets = nn.ModuleList()
        self.names: list[str] = []
        self.active: str | None = None
        self.head = head
        """Parameters of new modules, which are saved with the vectors."""

    def vectors(self) -> Tensor:
        """[tokens, size]"""
        found: Tensor = self.sets[self.names.index(str(self.active))]()
        return found


# --------------------------------------------------------------------------------------------- embeddings


def embeddings(model: Any) -> list[nn.Module]:
    """The modules that make token ids vectors; encoder-decoder models have several, sharing their weights or not."""
    inner = getattr(model, "backbone", model)
    parts = [inner, inner.get_encoder(), inner.get_decoder()] if inner.config.is_encoder_decoder else [inner]
    found = [part.get_input_embeddings() for part in parts]
    found += [m for m in inner.modules() if isinstance(m, nn.Embedding) and any(m.weight is f.weight for f in found)]
    return list({id(module): module for module in found}.values())


def embed(model: nn.Module, ids: list[int]) -> Tensor:
    """[ids, size]: what the model makes of ordinary ids."""
    module: Any = embeddings(model)[0]
    with torch.no_grad():
        found: Tensor = module(torch.tensor(ids, device=module.weight.device))
    return found


def deviation(model: nn.Module) -> float:
    """Standard deviation of the embeddings of the vocabulary, from rows all over it."""
    module: Any = embeddings(model)[0]
    step = max(module.num_embeddings // _SAMPLE, 1)
    return float(embed(model, list(range(0, module.num_embeddings, step))).float().std())


def _override(embedding: Any, prompt: SoftPrompt) -> None:
    plain = embedding.forward

    def forward(ids: Tensor) -> Tensor:
        soft = ids >= SOFT
        if not (prompt.active and prompt.training) and not bool(soft.any()):
            return plain(ids)  # type: ignore[no-any-return]
        if prompt.active is None:
            raise ModelError("soft tokens reached the bare base model", "activate the soft prompt, or leave them out")
        embedded: Tensor = plain(ids.masked_fill(soft, 0))
        # Gathered in fp32, so that the gradients of all rows are added up in fp32.
        vectors = prompt.vectors().float()[ids[soft] - SOFT]
        return embedded.index_put((soft,), vectors.to(embedded.dtype))

    embedding.forward = forward


# ---------------------------------------------------------------------------------- in, out, on and off


def install(model: nn.Module, source: nn.Module, head: tuple[str, ...], name: str = "default") -> None:
    """Add a set of vectors and make it the active one; parameters of ``head`` are saved with it.

    The vectors take the dtype and device of the embeddings.
    """
    weight: Any = embeddings(model)[0].weight
    if not hasattr(model, _SLOT):
        inside = tuple(f"{module}." for module in head)
        own = [key for key, _ in model.named_parameters() if key in head or key.startswith(inside)]
        prompt = SoftPrompt(own)
        for embedding in embeddings(model):
            _override(embedding, prompt)
        model.add_module(_SLOT, prompt)
        swap.remember(model, dict.fromkeys(own), name)
    prompt = _prompt(model)
    if name in prompt.names:
        raise ModelError(f"a soft prompt {name!r} is loaded already", "choose another name")
    prompt.sets.append(source.to(weight.device, weight.dtype).train(model.training))
    prompt.names.append(name)
    prompt.active = name


def _prompt(model: nn.Module) -> SoftPrompt:
    return model.get_submodule(_SLOT)  # type: ignore[return-value]


def reads(model: nn.Module) -> bool:
    """Whether the model knows soft ids now; the bare base does not."""
    prompt = getattr(model, _SLOT, None)
    return isinstance(prompt, SoftPrompt) and prompt.active is not None


def activate(model: nn.Module, name: str | None) -> None:
    """Choose a set with its head, or the bare base (None). Raises ModelError if there is no such set."""
    swap.activate(model, name)
    _prompt(model).active = name


def save(model: nn.Module, folder: Path, in_front: bool) -> None:
    """The active set's parameters and those of the head.

    In peft's format, which puts the vectors before everything else, where that is so (``in_front``) and the model is a
    decoder that writes text: instead of ours, or beside it if a network makes the vectors.
    """
    prompt = _prompt(model)
    if prompt.active is None:
        raise ModelError("the soft prompt is switched off", "activate it before it is saved")
    source = prompt.sets[prompt.names.index(prompt.active)]
    for_peft = in_front and not prompt.head and type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    if for_peft:
        _save_for_peft(model, prompt.vectors(), folder)
    if not (for_peft and isinstance(source, Vectors)):
        own = dict(model.named_parameters())
        tensors = {f"{_SLOT}.{key}": value for key, value in source.named_parameters()}
        weights.save(tensors | {key: own[key] for key in prompt.head}, folder / FILE)


def _save_for_peft(model: Any, vectors: Tensor, folder: Path) -> None:
    from peft import PromptTuningConfig

    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.config.name_or_path or None,
        num_virtual_tokens=vectors.shape[0],
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,
        num_attention_heads=model.config.num_attention_heads,
        num_layers=model.config.num_hidden_layers,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    weights.save({_PEFT_KEY: vectors}, folder / PEFT_FILE)


def load(model: nn.Module, source: nn.Module, folder: Path, head: tuple[str, ...], name: str) -> None:
    """Install what ``save`` wrote. Raises ModelError: missing, damaged, or not for this model."""
    path = folder / FILE
    if not path.exists() and (folder / PEFT_FILE).exists():
        path = folder / PEFT_FILE
    tensors = weights.read(path)
    if _PEFT_KEY in tensors:
        tensors[f"{_SLOT}.weight"] = tensors.pop(_PEFT_KEY)
    if missing := [key for key, _ in source.named_parameters() if f"{_SLOT}.{key}" not in tensors]:
        raise ModelError(f"no {missing[0]!r} among the weights", "restore the run or train it again", str(path))
    install(model, source, head, name)
    place = f"{_SLOT}.sets.{len(_prompt(model).sets) - 1}"
    own = {key.replace(_SLOT, place, 1): t for key, t in tensors.items() if key.startswith(f"{_SLOT}.")}
    weights.load_into(model, own, path)
    swap.load(model, {key: t for key, t in tensors.items() if not key.startswith(f"{_SLOT}.")}, path, name)
