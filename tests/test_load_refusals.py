"""Base models that cannot be had: every reason is told, with what to do."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import base_of, copy_of, edit_config
from tunery.config import ModelConfig
from tunery.errors import ConfigError, ModelError
from tunery.models import cache, hub, load


def test_damaged_weights(tiny_llama: Path, tmp_path: Path) -> None:
    cut = copy_of(tiny_llama, tmp_path / "cut")
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        base_of(cut).load("causal_lm")
    assert raised.value.code == 6 and str(cut) in str(raised.value)
    (cut / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="damaged"):
        base_of(cut).parameters()


def test_missing_layer_is_no_new_head(tiny_llama: Path, tmp_path: Path) -> None:
    holed = copy_of(tiny_llama, tmp_path / "holed")
    weights = {k: v for k, v in load_file(holed / "model.safetensors").items() if "layers.1.mlp" not in k}
    save_file(weights, holed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"3 weights of the model are not in its files.*layers.1.mlp"):
        base_of(holed).load("sequence_classification")
    edit_config(holed, hidden_size=64)
    with pytest.raises(ModelError):
        base_of(holed).load("causal_lm")


def test_refused_folders(tiny_bert: Path, tmp_path: Path) -> None:
    pickled = copy_of(tiny_bert, tmp_path / "pickled", drop="model.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match=r"only pickled weights.*save_pretrained"):
        base_of(pickled)
    remote = copy_of(tiny_bert, tmp_path / "remote")
    edit_config(remote, model_type="chatglm", auto_map={"AutoModel": "modeling.Model"})
    (remote / "modeling.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(ModelError, match="its own Python code, which tunery never runs"):
        base_of(remote)
    edit_config(remote, model_type="chatglm", auto_map=None)
    with pytest.raises(ModelError, match="unknown model type 'chatglm'"):
        base_of(remote)
    (remote / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        base_of(remote)
    (remote / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        base_of(remote)
    (remote / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="an adapter"):
        base_of(remote)
    with pytest.raises(ModelError, match="cannot be loaded"):
        base_of(copy_of(tiny_bert, tmp_path / "mute", drop="tokenizer.json"))


def test_unknown_names(tmp_path: Path) -> None:
    for name, message in (
        ("smolm2", "did you mean 'smollm2'"),
        ("qwerty", "packs: known: smollm2, minilm"),
        ("./nowhere", "no such model folder or file"),
        ("a/b/c", "no such model folder or file"),
        ("gone.gguf", "no such model folder or file"),
        (__file__, "a file that is no model"),
    ):
        with pytest.raises(ModelError, match=message) as raised:
            base_of(name)
        assert raised.value.code == 6
    with pytest.raises(ConfigError, match="one pinned version"):
        base_of("minilm", revision="main")
    with pytest.raises(ModelError, match="tunery models pull minilm"):
        load.open_base(ModelConfig(name="minilm"), local_only=True)


def test_no_such_head(tiny_t5: Path, tiny_gpt2: Path) -> None:
    with pytest.raises(ModelError, match="type t5, which has no causal_lm head"):
        base_of(tiny_t5).load("causal_lm")
    with pytest.raises(ModelError, match="no masked_lm head"):
        base_of(tiny_gpt2).load("masked_lm")


def test_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert load.device_of(ModelConfig(device="cpu")) == cpu
    for name in ("cuda:9", "mps"):
        with pytest.raises(ModelError, match=f"no device {name}.*auto"):
            load.device_of(ModelConfig(device=name))
    for name in ("gpu", "meta", "cpu:x"):
        with pytest.raises(ConfigError, match="unknown device"):
            load.device_of(ModelConfig(device=name))
    assert load.dtype_of(ModelConfig(dtype="bfloat16"), cpu) == torch.bfloat16
    assert load.dtype_of(ModelConfig(dtype="float32"), cpu) == torch.float32
    for flags, dtype in (
        ("flags\t: sse avx512_bf16", torch.bfloat16),
        ("flags\t: amx_bf16", torch.bfloat16),
        ("Features\t: asimd bf16", torch.bfloat16),
        ("flags\t: avx2", torch.float32),
        ("", torch.float32),
    ):
        monkeypatch.setattr(Path, "read_text", lambda *a, flags=flags, **k: f"processor : 0\n{flags}\n")
        assert load.dtype_of(ModelConfig(), cpu) == dtype


def test_quantised_needs_the_extra(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"tunery\[quantise\]"):
        base_of(tiny_llama, quantise="nf4").load("causal_lm")


def test_damaged_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF junk")
    with pytest.raises(ModelError, match="not a GGUF model"):
        base_of(path)
    assert not any((cache.root() / "gguf").glob("[!.]*")), "nothing half-made is left"


class FakeModelScope:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def snapshot_download(self, repo: str, **settings: Any) -> str:
        assert repo == "org/name"
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def test_modelscope(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match=r"tunery\[modelscope\]"):
        base_of("modelscope:org/name")
    monkeypatch.setitem(sys.modules, "modelscope", FakeModelScope(tiny_bert))
    assert base_of("modelscope:org/name").folder == tiny_bert
    monkeypatch.setitem(sys.modules, "modelscope", FakeModelScope(ValueError("nothing cached")))
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot reach http://127\.0\.0\.1:9"):
        base_of("modelscope:org/name")


def test_within() -> None:
    assert hub.within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        hub.within(5, lambda: 1 // 0)
    with pytest.raises(TimeoutError):
        hub.within(0.05, lambda: time.sleep(1))
