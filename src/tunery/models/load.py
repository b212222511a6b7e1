"""The one place that finds and loads a base model.

``resolve`` turns a name into a folder, ``open_base`` reads what is cheap (config, tokenizer), ``Base.load``
reads the weights under the head a task asks for. Safetensors only, and never a model's own Python code.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from tunery.config import ModelConfig
from tunery.errors import ConfigError, ModelError, ResourceError, TuneryError
from tunery.models import cache, convert, fresh, hub, packs, quantise
from tunery.models import folder as folders
from tunery.models.device import device_of, dtype_of
from tunery.models.quiet import quiet
from tunery.registry import near

__all__ = ["KINDS", "Base", "device_of", "dtype_of", "open_base", "origin", "resolve"]

KINDS = {
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
    "masked_lm": "AutoModelForMaskedLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "backbone": "AutoModel",
}
LOADER_KEYS = ("attn_implementation",)
"""Changes that are arguments of ``from_pretrained``, not keys of the config."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Base:
    """A base model whose weights are not loaded yet."""

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    device: torch.device
    family: str
    """``decoder``, ``encoder`` or ``encoder-decoder``."""
    quantised: str | None = None
    """``nf4``, ``fp4``, ``int8`` or None."""

    def load(self, kind: str, **config_changes: Any) -> tuple[nn.Module, tuple[str, ...]]:
        """Weights under a head → model in eval mode, names of the modules that are newly initialised.

        New weights come from torch's random state, so seed it before. Where a new parameter has no module of
        its own (a bias beside a tied matrix), its own name is given.

        Args:
            kind: a key of ``KINDS``; ``backbone`` has no head.
            config_changes: keys of the model's config (``num_labels``, ``id2label``, …), ``attn_implementation``,
                and ``dropout``, which means every dropout the architecture has.

        Raises:
            ModelError: no such head for this architecture, weights damaged or missing.
            ResourceError: not enough memory.
        """
        import transformers

        quiet()
        model_class = getattr(transformers, KINDS[kind])
        config, arguments = self._configured(config_changes)
        with _reading(self.folder):
            if type(config) not in model_class._model_mapping:
                raise ModelError(
                    f"{self.name} is of type {config.model_type}, which has no {kind} head in transformers",
                    "choose another task or another base model",
                    "model.name",
                )
            if self.quantised:
                keep = quantise.kept(model_class, copy.deepcopy(config))
                arguments["quantization_config"] = quantise.settings(self.quantised, self.dtype, keep)
            arguments |= fresh.renaming(model_class._model_mapping[type(config)], config, self.folder)
            if self.quantised or self.device.type == "cuda":
                arguments["device_map"] = {"": str(self.device)}  # straight to where it computes
            model, report = model_class.from_pretrained(
                str(self.folder),
                config=config,
                dtype=self.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # a head for other labels is a new head; the rest is checked below
                output_loading_info=True,
                **arguments,
            )
        fresh.forget(model, arguments.get("key_mapping", {}))
        new = fresh.new_names(model, report)
        fresh.check_backbone(model, new, self.folder)
        quantise.repair(model)
        if "device_map" not in arguments:
            model = model.to(self.device)
        return model.eval(), fresh.highest(model, new)

    def _configured(self, changes: dict[str, Any]) -> tuple[PreTrainedConfig, dict[str, Any]]:
        config = copy.deepcopy(self.config)
        arguments = {key: changes[key] for key in LOADER_KEYS if changes.get(key) is not None}
        for key, value in changes.items():
            if key == "dropout":
                if value is not None:
                    fresh.set_dropout(config, float(value))
            elif key not in LOADER_KEYS:
                setattr(config, key, value)
        return config, arguments

    def has_head(self, kind: str) -> bool:
        """Whether the files hold the head of this kind, from their headers alone."""
        import transformers

        model_class = getattr(transformers, KINDS[kind])
        with _reading(self.folder):
            known = type(self.config) in model_class._model_mapping
            return known and fresh.stored_head(model_class, copy.deepcopy(self.config), self.folder)

    def pooling(self) -> str:
        """``mean``, ``cls`` or ``max`` where the model was trained with it (sentence-transformers), else ``stock``."""
        return folders.pooling(self.folder)

    def hash(self) -> str:
        """SHA-256 over config and weights; remembered, so that only the first call reads the files."""
        with _reading(self.folder):
            files = [self.folder / "config.json", *folders.weight_files(self.folder)]
            lines = [f"{cache.file_hash(path)}  {path.name}\n" for path in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def parameters(self) -> int:
        """Number of weights, from the files' headers."""
        return folders.parameters(self.folder)


def open_base(config: ModelConfig, local_only: bool = False, progress: packs.Progress | None = None) -> Base:
    """Find a model and read its config and tokenizer; weights are read by ``Base.load``.

    ``progress`` hears of a pack being pulled, which takes a minute the first time.

    Raises ModelError: unknown name, no network, damaged or unsupported files, device not there.
    """
    quiet()
    device = device_of(config)
    folder = resolve(config.name, config.revision, local_only, progress)
    folders.check(folder)
    with _reading(folder):
        from transformers import AutoConfig, AutoTokenizer

        settings = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError("no fast tokenizer (tokenizer.json)", "convert it with transformers first", str(folder))
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has neither a padding nor an end token", "set pad_token", str(folder))
        tokenizer.pad_token = tokenizer.eos_token
    settings.pad_token_id = tokenizer.pad_token_id
    return Base(
        name=config.name,
        folder=folder,
        config=settings,
        tokenizer=tokenizer,
        dtype=dtype_of(config, device),
        device=device,
        family=_family(settings, config.name),
        quantised=config.quantise,
    )


def origin(name: str) -> dict[str, str | None]:
    """Where a base comes from, for a model card: its id on Hugging Face's hub and its licence, as far as known."""
    if name in packs.PACKS:
        return {"hub": packs.PACKS[name].origin, "licence": packs.PACKS[name].licence}
    on_hub = HUB_ID.fullmatch(name) and not Path(name).exists()
    return {"hub": name if on_hub else None, "licence": None}


def resolve(
    name: str, revision: str | None = None, local_only: bool = False, progress: packs.Progress | None = None
) -> Path:
    """The folder of a model: a pack, a folder, a GGUF file, ``modelscope:ID`` or a Hugging Face id.

    With ``local_only`` nothing is downloaded. Raises ModelError, ResourceError.
    """
    if name in packs.PACKS:
        if revision is not None:
            raise ConfigError("a pack has one pinned version", "leave model.revision out", "model.revision")
        if local_only and not packs.PACKS[name].cached:
            raise ModelError(f"pack {name} is not in the cache", f"tunery models pull {name}", "model.name")
        return packs.pull(name, progress)
    if name.startswith("modelscope:"):
        return hub.modelscope(name.removeprefix("modelscope:"), revision, local_only)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return _converted(path)
        raise ModelError("a file that is no model", "name a model folder or a .gguf file", name)
    if HUB_ID.fullmatch(name) and path.suffix.lower() != ".gguf":
        return hub.fetch(name, revision, local_only)
    if "/" in name or path.suffix:
        raise ModelError("no such model folder or file", "check the path", name)
    hint = f"packs: {near(name, list(packs.PACKS))}; or a local folder, a .gguf file, a hub id like org/name"
    raise ModelError(f"unknown model {name!r}", hint, "model.name")


def _converted(source: Path) -> Path:
    """A GGUF file as a folder in the cache, keyed by the file's content. Raises ModelError, ResourceError."""
    with _reading(source):
        digest = cache.file_hash(source)
    target = cache.root() / "gguf" / f"{source.stem}-{digest[:16]}"
    origin = {"layout": packs.LAYOUT, "gguf_sha256": digest}
    if not cache.complete(target, **origin):
        with cache.locked(target):
            if not cache.complete(target, **origin):
                cache.build(target, lambda folder: convert.gguf(source.resolve(), folder), **origin)
    return target


def _family(config: Any, name: str) -> str:
    from transformers.models.auto import modeling_auto as auto

    if config.is_encoder_decoder:
        return "encoder-decoder"
    kind = config.model_type
    if getattr(config, "is_decoder", False):
        return "decoder"
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # before causal: BERT is in both
        return "encoder"
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    if kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return "encoder"
    raise ModelError(f"{name} is of type {kind}, which is not a language model", "choose another model", "model.name")


@contextlib.contextmanager
def _reading(where: Path) -> Iterator[None]:
    """Any failure of the libraries while they read a model, as an error that a user can act on."""
    try:
        yield
    except TuneryError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        hint = "choose a smaller model, or model.quantise=nf4"
        raise ResourceError("not enough memory to load the model", hint, str(where)) from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ModelError(f"cannot be loaded: {convert.first_line(error)}", "get the model again", str(where)) from error
