"""onnxruntime with tokenizer.json alone: neither torch nor transformers. Imports nothing of tunery."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = "model.onnx"


def load(job: dict[str, Any]) -> Consumer:
    return Consumer(job)


class Consumer:
    """``job``: ``folder``."""

    def __init__(self, job: dict[str, Any]) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        folder = Path(job["folder"])
        self.session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.versions = {name: version(name) for name in ("onnxruntime", "tokenizers")}

    def tokens(self, ask: dict[str, Any]) -> list[int]:
        if "words" in ask:
            self.tokenizer.no_truncation()
            return list(self.tokenizer.encode(ask["words"], is_pretokenized=True).ids)
        self.tokenizer.enable_truncation(ask["longest"], strategy="longest_first")
        return list(self.tokenizer.encode(*ask["texts"]).ids)

    def logits(self, row: dict[str, Any]) -> Any:
        import numpy as np

        given = {name: np.array([values], dtype=np.int64) for name, values in row["inputs"].items()}
        given["attention_mask"] = np.ones_like(given["input_ids"])
        given.setdefault("token_type_ids", np.zeros_like(given["input_ids"]))
        names = [node.name for node in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(None, {name: given[name] for name in self.inputs}), strict=True))
        if "start_logits" in out:
            return np.concatenate([out["start_logits"], out["end_logits"]])
        found = out["logits"][0]
        return found[None] if found.ndim == 1 else found
