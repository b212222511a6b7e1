"""Finding and loading base models: heads, new weights, refusals; no network but a server of our own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering

from tiny import base_of, copy_of
from tunery.errors import ModelError
from tunery.models import cache, folder, load

CASES = [
    ("llama", "causal_lm", "decoder", ()),
    ("llama", "sequence_classification", "decoder", ("score",)),
    ("llama", "backbone", "decoder", ()),
    ("llama", "token_classification", "decoder", ("score",)),
    ("llama", "question_answering", "decoder", ("qa_outputs",)),
    ("gpt2", "causal_lm", "decoder", ()),
    ("gpt2", "sequence_classification", "decoder", ("score",)),
    ("bert", "backbone", "encoder", ()),
    ("bert", "sequence_classification", "encoder", ("classifier",)),
    ("bert", "token_classification", "encoder", ("classifier",)),
    ("bert", "question_answering", "encoder", ("qa_outputs",)),
    ("roberta", "masked_lm", "encoder", ()),
    ("roberta", "sequence_classification", "encoder", ("classifier",)),
    ("roberta", "backbone", "encoder", ("pooler",)),
    ("t5", "seq2seq_lm", "encoder-decoder", ()),
]


@pytest.mark.parametrize(("model", "kind", "family", "new"), CASES)
def test_heads(model: str, kind: str, family: str, new: tuple[str, ...], request: Any, capfd: Any) -> None:
    source = request.getfixturevalue(f"tiny_{model}")
    capfd.readouterr()  # of building it
    base = base_of(source)
    assert base.family == family
    loaded, names = base.load(kind)
    assert names == new
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    ids = base.tokenizer("Hello 你好", return_tensors="pt")["input_ids"]
    extra = {"decoder_input_ids": ids} if family == "encoder-decoder" else {}
    with torch.no_grad():
        assert torch.isfinite(loaded(input_ids=ids, **extra)[0]).all()
    assert capfd.readouterr() == ("", ""), "the libraries' progress bars and warnings stay silent"


def test_new_weights_follow_the_seed(tiny_bert: Path) -> None:
    base = base_of(tiny_bert)

    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model: Any = base.load("sequence_classification", num_labels=5)[0]
        return model.classifier.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    assert head(1).shape == (5, 32)


def test_a_head_for_other_labels_is_new(tiny_bert: Path, tmp_path: Path) -> None:
    model: Any = base_of(tiny_bert).load("sequence_classification", num_labels=7)[0]
    model.save_pretrained(str(tmp_path))
    for path in tiny_bert.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    base = base_of(tmp_path)
    same: Any = base.load("sequence_classification", num_labels=7)
    assert same[1] == () and torch.equal(same[0].classifier.weight, model.classifier.weight)
    assert base.load("sequence_classification", num_labels=3)[1] == ("classifier",)


def test_names_cover_exactly_what_is_new(tiny_bert: Path) -> None:
    model, names = base_of(tiny_bert).load("masked_lm")
    covered = {
        n for n, _ in model.named_parameters(remove_duplicate=False) for t in names if n == t or n.startswith(t + ".")
    }
    assert "cls.predictions.transform" in names
    assert not any("embeddings" in name for name in covered)
    assert "cls.predictions.decoder.weight" not in covered, "tied to the embeddings, which are not new"


def test_stock_question_answering(tiny_llama: Path, tmp_path: Path) -> None:
    """Transformers names this class's backbone otherwise and would start from random weights."""
    base = base_of(tiny_llama)
    model: Any = base.load("question_answering")[0]
    backbone = base.load("backbone")[0]
    for ours, theirs in zip(model.base_model.parameters(), backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    model.save_pretrained(str(tmp_path))
    _, report = AutoModelForQuestionAnswering.from_pretrained(str(tmp_path), output_loading_info=True)
    assert not report["missing_keys"], "plain transformers loads what was saved"


def test_config_changes_stay_with_one_load(tiny_bert: Path) -> None:
    base = base_of(tiny_bert)
    changed: Any = base.load("sequence_classification", dropout=0.3, num_labels=4, attn_implementation="eager")[0]
    plain: Any = base.load("sequence_classification", dropout=None, attn_implementation=None)[0]
    assert changed.config.hidden_dropout_prob == changed.config.attention_probs_dropout_prob == 0.3
    assert changed.dropout.p == 0.3
    assert changed.config._attn_implementation == "eager"
    assert plain.config.hidden_dropout_prob == 0.1 and plain.config.num_labels == 2


def test_weights_on_disk_survive_training(tiny_llama: Path) -> None:
    before = (tiny_llama / "model.safetensors").read_bytes()
    model: Any = base_of(tiny_llama).load("causal_lm")[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (tiny_llama / "model.safetensors").read_bytes() == before, "the memory map is private"


def test_padding_token(tiny_gpt2: Path, tiny_llama: Path) -> None:
    gpt2 = base_of(tiny_gpt2)
    assert gpt2.tokenizer.pad_token == "<|endoftext|>" and gpt2.config.pad_token_id == 0
    llama = base_of(tiny_llama)
    assert llama.tokenizer.pad_token_id == llama.tokenizer.eos_token_id == llama.config.pad_token_id == 2
    assert llama.tokenizer.is_fast and llama.tokenizer.chat_template


def test_parameters_and_pooling(tiny_bert: Path, tiny_llama: Path, tmp_path: Path) -> None:
    for path, kind in ((tiny_bert, "backbone"), (tiny_llama, "causal_lm")):
        base = base_of(path)
        assert base.parameters() == sum(p.numel() for p in base.load(kind)[0].parameters())
        assert base.pooling() == "stock"
    copy = copy_of(tiny_bert, tmp_path / "copy")
    (copy / "1_Pooling").mkdir()
    for key, kind in (("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max")):
        (copy / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{key}": True}))
        assert base_of(copy).pooling() == kind


def test_hash(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_of(tiny_bert, tmp_path / "copy")
    first = base_of(tiny_bert).hash()
    assert base_of(copy).hash() == first and len(first) == 64, "content counts, not the place"
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert base_of(copy).hash() != first
    monkeypatch.setattr(cache.rundir, "sha256", lambda path: pytest.fail("read again"))
    assert base_of(tiny_bert).hash() == first


def test_hash_without_a_cache(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = base_of(tiny_bert).hash()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert base_of(tiny_bert).hash() == first


def test_shards(tiny_llama: Path, tmp_path: Path) -> None:
    model: Any = base_of(tiny_llama).load("causal_lm")[0]
    sharded = copy_of(tiny_llama, tmp_path / "sharded", drop="model.safetensors")
    model.save_pretrained(str(sharded), max_shard_size="40KB")
    base = base_of(sharded)
    assert len(folder.weight_files(sharded)) > 1
    assert base.parameters() == base_of(tiny_llama).parameters()
    assert torch.equal(base.load("causal_lm")[0].get_input_embeddings().weight, model.get_input_embeddings().weight)
    folder.weight_files(sharded)[0].unlink()
    with pytest.raises(ModelError, match="weights are missing: model-00001"):
        base_of(sharded)


def test_bfloat16(tiny_bert: Path) -> None:
    model, _ = base_of(tiny_bert, dtype="bfloat16").load("sequence_classification")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_quantised(kind: str, tiny_llama: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = base_of(tiny_llama, quantise=kind, dtype="bfloat16")
    model, new = base.load("sequence_classification", num_labels=3)
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    assert types["model.layers.0.mlp.up_proj"] == ("Linear8bitLt" if kind == "int8" else "Linear4bit")
    assert types["score"] == "Linear" and new == ("score",), "a head to be trained is not quantised"
    assert not any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules())


def test_gguf(tiny_gguf: Path, tiny_llama: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    capfd.readouterr()  # of building it
    base, original = base_of(tiny_gguf), base_of(tiny_llama)
    text = "  12 apples, 你好"
    assert base.tokenizer.chat_template == original.tokenizer.chat_template
    split = base.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in split] == ["a", "ĠĠ", "1", "2"], "as llama.cpp's smollm does"
    assert base.tokenizer.decode(base.tokenizer(text)["input_ids"]) == text
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours, theirs = (b.load("causal_lm")[0](input_ids=ids).logits for b in (base, original))
    torch.testing.assert_close(ours, theirs)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(load.convert, "gguf", lambda *a: pytest.fail("converted twice"))
    assert base_of(tiny_gguf).folder == base.folder


@pytest.mark.real
@pytest.mark.parametrize(("name", "kind"), [("smollm2", "causal_lm"), ("minilm", "backbone")])
def test_packs_load(name: str, kind: str) -> None:
    base = base_of(name)
    model, new = base.load(kind)
    assert new == () and base.parameters() == sum(p.numel() for p in model.parameters())
