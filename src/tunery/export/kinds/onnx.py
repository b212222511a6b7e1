"""A classifier, tagger or extractive model as one ONNX graph, for onnxruntime."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunery.errors import ConfigError, ModelError
from tunery.export import merging, tokens
from tunery.export.kind import Kind, Subject
from tunery.models.heads import PooledClassifier, pool
from tunery.report import markdown
from tunery.rundir import write_json

FILE, SETTINGS = "model.onnx", "settings.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
WHOLE = 1_800_000_000
"""Bytes of weights up to which one file holds all: protobuf ends at 2 GiB."""


class Onnx(Kind):
    """Batches and lengths are free. A pooled classifier also gives its pooled vector, as ``sentence_embedding``."""

    summary = "a classifier, tagger or extractive model on an encoder as a graph for onnxruntime"
    consumer = "onnxruntime"
    dtypes = ("f32", "int8")

    def require(self) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise ModelError(f"exports to ONNX need {package}", "pip install 'tunery[onnx]'", "--to onnx")

    def refuses(self, subject: Subject) -> str | None:
        task = subject.task
        if task.output != "logits" or task.name == "cloze":
            return f"a run of task {task.name} is no classifier; use --to merged, or gguf for a language model"
        if subject.base.family != "encoder":
            return f"only encoders are written as ONNX, and this base is a {subject.base.family}; use --to merged"
        if task.soft is not None or task.soft_tokens(subject.tokenizer):
            return "no tokenizer writes the soft tokens that this run reads; use tunery serve, or method=lora"
        return None

    def dtype(self, subject: Subject) -> str:
        return "f32"

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        model = merging.merged(subject) if subject.method.merges else merging.plain(subject)
        _write(_Graph(model, _reads_types(subject)), folder / FILE)
        if dtype == "int8":
            _quantise(folder / FILE)
        subject.tokenizer.backend_tokenizer.no_padding()
        tokens.save(subject, folder)
        task = subject.task
        settings = {"task": task.name, **task.state(), "max_length": subject.config.data.max_length}
        settings |= {"pad_token_id": subject.tokenizer.pad_token_id}
        if getattr(task, "multi", False):
            settings["threshold"] = task.config.threshold
        settings.pop("uneven", None)  # matters in training alone
        settings |= subject.settings
        write_json(folder / SETTINGS, settings)

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        return {}

    def use(self, subject: Subject, target: Path) -> str:
        snippet = _SNIPPET
        if subject.task.name == "regress":
            scaled = 'numbers = logits[:, 0] * settings["deviation"] + settings["mean"]'
            snippet = f"{_SNIPPET.partition('  # settings')[0]}\n{scaled}"
        return f"A graph for `onnxruntime`, and `tokenizer.json` for `tokenizers`:\n\n{markdown.fenced(snippet)}"


_SNIPPET = """\
import json
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

settings = json.load(open("settings.json"))
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation(settings["max_length"])
tokenizer.enable_padding(pad_id=settings["pad_token_id"])
session = onnxruntime.InferenceSession("model.onnx")

rows = tokenizer.encode_batch(["a text", "another text"])
inputs = {
    "input_ids": np.array([row.ids for row in rows]),
    "attention_mask": np.array([row.attention_mask for row in rows]),
    "token_type_ids": np.array([row.type_ids for row in rows]),
}
names = [node.name for node in session.get_inputs()]
logits = session.run(["logits"], {name: inputs[name] for name in names})[0]  # settings["labels"] names the columns"""


class _Graph(nn.Module):
    """Tensors in, a tuple of tensors out."""

    def __init__(self, model: Any, types: bool) -> None:
        super().__init__()
        self.model = model
        self.inputs = INPUTS if types else INPUTS[:2]
        self.outputs = ["logits"]
        if isinstance(model, PooledClassifier):
            self.outputs.append("sentence_embedding")
        elif type(model).__name__.endswith("ForQuestionAnswering"):
            self.outputs = ["start_logits", "end_logits"]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.inputs, given, strict=True))
        if isinstance(self.model, PooledClassifier):
            hidden = self.model.backbone(**inputs).last_hidden_state
            vector = pool(hidden, inputs["attention_mask"], self.model.pooling)
            return self.model.classifier(vector), vector
        out = self.model(**inputs)
        return tuple(getattr(out, name) for name in self.outputs)


def _reads_types(subject: Subject) -> bool:
    return "token_type_ids" in subject.tokenizer.model_input_names


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The exporter reports its steps on stdout and by warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@torch.no_grad()
def _write(graph: _Graph, path: Path) -> None:
    """Traced with two rows of different length. Raises ConfigError if the architecture cannot be traced."""
    _eager(graph)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 0, 0, 0]])
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    try:
        with _silent():
            torch.onnx.export(
                graph,
                tuple(given[name] for name in graph.inputs),
                str(path),
                input_names=list(graph.inputs),
                output_names=graph.outputs,
                dynamic_shapes=((free,) * len(graph.inputs),),
                external_data=size > WHOLE,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter has errors of its own for each of its steps
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"torch cannot write this architecture as ONNX: {first[:200]}", "use --to merged", "--to"
        ) from error


def _eager(graph: nn.Module) -> None:
    """Attention as plain matrix products: kernels of their own have no ONNX form."""
    for module in graph.modules():
        settings = getattr(module, "config", None)
        if getattr(settings, "_attn_implementation", None) is not None:
            settings._attn_implementation = "eager"  # type: ignore[union-attr]


def _quantise(path: Path) -> None:
    """Weights of matrix products in 8 bits, inputs quantised as they come (onnxruntime's dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("f32.onnx")
    path.rename(whole)
    with _silent():
        quantize_dynamic(str(whole), str(path), weight_type=QuantType.QInt8, per_channel=True)
    for left in path.parent.glob("f32.onnx*"):
        left.unlink()
