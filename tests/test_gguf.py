"""GGUF files: what is in them, that llama.cpp computes the same model from them, and what is refused."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import small
import tiny
from small import one_thread, questions, train, write  # noqa: F401
from tunery.errors import ConfigError, GateError, ModelError
from tunery.export import consume, gguf_file, gguf_layout, gguf_lora, gguf_vocab, llama, parity
from tunery.models import convert
from tunery.run.run import Run

needs_llama = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed (it compiles llama.cpp): tunery[llama]"
)
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llama": tiny.tiny_llama,
    "llama2": tiny.tiny_llama2,
    "llama3": tiny.tiny_llama3,
    "qwen2": tiny.tiny_qwen2,
    "qwen3": tiny.tiny_qwen,
}
SAID = ("What is 2024?  Good  film,\n\n it's 12345 x", "你好，请问怎么退货？ naïve ☕ don't", " leading and trailing ")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """Model and tokenizer by name; weights so large that the logits differ, biases and norms that are not 0 and 1."""
    folder = tmp_path_factory.mktemp("models")

    def build(name: str) -> tuple[Any, Any]:
        place = folder / name
        place = place if place.exists() else BUILDERS[name](place)
        model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
        return model, transformers.AutoTokenizer.from_pretrained(place)

    return build


def ids_of(tokenizer: Any, text: str = SAID[0]) -> list[int]:
    return [int(i) for i in tokenizer(text)["input_ids"]]


def through_llama(folder: Path, file: Path, ids: list[int], asks: Any = (), **more: Any) -> tuple[Any, Any]:
    """→ logits of one row, token ids of the questions: from llama.cpp in a process of its own."""
    job = {
        "consumer": "llama_cpp",
        "threads": 1,
        "gguf": str(file),
        "asks": list(asks),
        "prompts": [],
        "max_new_tokens": 0,
    }
    found = consume.run(
        {**job, "rows": [{"inputs": {"input_ids": ids}, "positions": None}], **more}, folder / "consumer"
    )
    return np.load(folder / "consumer" / "0000.npy"), found["tokens"]


def logits_of(model: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


# ------------------------------------------------------------------------------------------ the model


@needs_llama
@pytest.mark.parametrize("name", BUILDERS)
def test_llama_cpp_computes_the_same_from_fp32(name: str, built: Any, tmp_path: Path) -> None:
    model, tokenizer = built(name)
    file = tmp_path / "model.gguf"
    gguf_file.write(file, model, tokenizer, "f32")
    ids = ids_of(tokenizer)
    asks = [{"texts": [text], "longest": 999} for text in SAID]
    theirs, tokens = through_llama(tmp_path, file, ids, asks, exact=True)
    ours = logits_of(model, ids)
    assert np.abs(ours).max() > 1
    assert np.abs(ours - theirs).max() < 1e-4
    assert tokens == [ids_of(tokenizer, text) for text in SAID]


@needs_llama
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_lower_kinds_stay_within_their_bound(kind: Any, built: Any, tmp_path: Path) -> None:
    model, tokenizer = built("llama")
    file = tmp_path / "model.gguf"
    gguf_file.write(file, model, tokenizer, kind)
    ids = ids_of(tokenizer)
    theirs, _ = through_llama(tmp_path, file, ids)
    one, two = (torch.tensor(x).log_softmax(-1) for x in (logits_of(model, ids), theirs))
    kl = float((one.exp() * (one - two)).sum(-1).mean())
    assert 0 < kl <= parity.BOUNDS[kind].kl


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_transformers_reads_back_the_same_weights(name: str, built: Any, tmp_path: Path) -> None:
    model, tokenizer = built(name)
    gguf_file.write(tmp_path / "model.gguf", model, tokenizer, "f32", tiny.CHATML, [2], {"name": "tiny"})
    (tmp_path / "read").mkdir()
    convert.gguf(tmp_path / "model.gguf", tmp_path / "read")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "read")
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "read")
    assert reader.chat_template == tiny.CHATML
    assert [ids_of(reader, text) for text in SAID] == [ids_of(tokenizer, text) for text in SAID]


def test_a_tied_head_is_written_once_and_norms_stay_fp32(built: Any, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    for name, untied in (("llama", False), ("qwen2", True)):
        model, tokenizer = built(name)
        gguf_file.write(tmp_path / f"{name}.gguf", model, tokenizer, "q4_0")
        kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors}
        assert ("output.weight" in kinds) == untied
        assert kinds["token_embd.weight"] == "Q8_0"
        assert kinds["blk.0.attn_q.weight"] == "Q4_0"
        assert kinds["output_norm.weight"] == kinds["blk.1.ffn_norm.weight"] == "F32"


def test_values_beyond_fp16_are_refused(built: Any, tmp_path: Path) -> None:
    model, tokenizer = built("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(ConfigError, match=r"blk\.0\.ffn_up\.weight has values beyond fp16's 65504.*bf16"):
        gguf_file.write(tmp_path / "model.gguf", model, tokenizer, "f16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma2"}, "this model is of type gemma2"),
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rotary positions of type yarn"),
    ],
)
def test_models_that_llama_cpp_would_compute_otherwise_are_refused(changes: Any, message: str) -> None:
    config = transformers.LlamaConfig()
    for key, value in changes.items():
        config.__dict__[key] = value
        if key == "model_type":
            config = transformers.Gemma2Config()
    with pytest.raises(ConfigError, match=message):
        gguf_layout.layout_of(config)


def test_a_sliding_window_is_the_longest_context() -> None:
    assert gguf_layout.context_of(transformers.MistralConfig(sliding_window=4096)) == 4096
    assert gguf_layout.context_of(transformers.MistralConfig(sliding_window=None, max_position_embeddings=99)) == 99
    assert gguf_layout.context_of(transformers.Qwen2Config(max_position_embeddings=99)) == 99


# -------------------------------------------------------------------------------------- the tokenizer


def test_pre_tokenizers_are_named_by_what_they_do(built: Any) -> None:
    found = {name: gguf_vocab.vocabulary(built(name)[1], 600).pre for name in BUILDERS}
    assert found == {"llama": "gpt-2", "llama2": "default", "llama3": "llama-bpe", "qwen2": "qwen2", "qwen3": "gpt-2"}
    tokenizer = built("llama")[1]
    cut = tokenizer.backend_tokenizer
    from tokenizers import pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    assert gguf_vocab.vocabulary(tokenizer, 600).pre == "smollm"
    for strange in (pre_tokenizers.Whitespace(), pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level])):
        cut.pre_tokenizer = strange
        with pytest.raises(ConfigError, match="the tokenizer"):
            gguf_vocab.vocabulary(tokenizer, 600)


def test_a_model_with_fewer_embeddings_than_tokens_is_refused(built: Any) -> None:
    with pytest.raises(ConfigError, match="the model 10 embeddings"):
        gguf_vocab.vocabulary(built("llama")[1], 10)


# ---------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    """A LoRA run whose adapter matters: a base with lively logits, a high learning rate."""
    folder = tmp_path_factory.mktemp("run")
    base = small.lively(tiny_llama, folder / "base")
    rows = write(folder / "rows.jsonl", questions(24, longest=6))
    return train(folder / "runs", base, rows, task="instruct", method="lora", train__max_steps=12, train__lr=2e-2)


@needs_llama
def test_a_run_passes_the_gate_whole_and_as_an_adapter(run: Run) -> None:
    whole = run.export("gguf", dtype="f32", rows=6)["parity"]
    alone = run.export("gguf_lora", dtype="f32", rows=6)["parity"]
    for found in (whole, alone):
        assert found["passed"]
        assert found["token_ids_equal"] == found["same_answers"] == 1
        assert found["kl_max"] < 1e-6
        assert set(found["consumer"]["versions"]) == {"llama-cpp-python"}
    for folder, file in (("gguf-f32", "model.gguf"), ("gguf_lora-f32", "adapter.gguf")):
        names = {path.name for path in (run.path / "export" / folder).iterdir()}
        assert names == {file, "README.md", "parity.json", "SHA256SUMS"}


@needs_llama
def test_a_corrupted_matrix_fails_the_gate(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = llama.merged

    def wrong(subject: Any) -> Any:
        model = right(subject)
        with torch.no_grad():
            weight = model.model.layers[1].self_attn.v_proj.weight
            weight.copy_(weight[torch.randperm(len(weight))])
        return model

    monkeypatch.setattr(llama, "merged", wrong)
    with pytest.raises(GateError, match="nothing was published: gguf") as caught:
        run.export("gguf", output=tmp_path / "out" / "broken", rows=6)
    assert caught.value.code == 4
    assert list((tmp_path / "out").iterdir()) == []


def test_the_scale_of_each_layer_is_in_its_b(run: Run, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_bytes((run.dir.model / name).read_bytes())
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings |= {"use_rslora": True, "alpha_pattern": {"layers.1.mlp.up_proj": 5}}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    config = transformers.AutoConfig.from_pretrained(run.config.model.name)
    gguf_lora.write(tmp_path / "adapter.gguf", adapter, config)
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    alpha = reader.get_field("adapter.lora.alpha").contents()
    stored = small.weights_of(adapter)
    for name, value in (("layers.0.mlp.up_proj", settings["lora_alpha"]), ("layers.1.mlp.up_proj", 5)):
        a, b = (stored[f"base_model.model.model.{name}.lora_{half}.weight"] for half in "AB")
        rank = len(a)
        expected = b.numpy() @ a.numpy() * value / rank**0.5
        block = f"blk.{name.split('.')[1]}.ffn_up.weight"
        assert np.allclose(tensors[f"{block}.lora_b"] @ tensors[f"{block}.lora_a"] * alpha / rank, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"peft_type": "LORA", "use_dora": True}, "DoRA"),
        ({"peft_type": "LORA", "modules_to_save": ["score"]}, "score"),
    ],
)
def test_other_adapters_are_refused(settings: dict[str, Any], message: str) -> None:
    assert message in str(gguf_lora.refusal(settings))


def test_runs_that_are_none_for_llama_cpp_say_why(
    tmp_path: Path, tiny_gpt2: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "require", lambda: None)
    rows = write(tmp_path / "rows.jsonl", questions(8))
    labels = write(tmp_path / "labels.jsonl", small.labelled(8))
    short: dict[str, Any] = {"train__max_steps": 1}
    made = {
        "of type gpt2": train(tmp_path / "a", tiny_gpt2, rows, task="instruct", method="lora", **short),
        "cannot be merged": train(tmp_path / "b", tiny_llama, rows, task="instruct", method="prefix", **short),
        "llama.cpp writes text": train(tmp_path / "c", tiny_llama, labels, task="classify", method="lora", **short),
    }
    for message, found in made.items():
        with pytest.raises(ConfigError, match=message):
            found.export("gguf")
        assert not (found.path / "export" / "gguf").exists()
    with pytest.raises(ConfigError, match="this run's method is full"):
        train(tmp_path / "d", tiny_llama, rows, task="instruct", method="full", **short).export("gguf_lora")


def test_without_the_package_nothing_is_published_unless_asked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"llama-cpp-python is not installed.*tunery\[llama\].*--unverified"):
        run.export("gguf", output=tmp_path / "out", rows=4)
    assert not (tmp_path / "out").exists()
    found = run.export("gguf", output=tmp_path / "out", rows=4, unverified=True)
    stored = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert stored["passed"] is None and stored["consumer"] is None
    assert found["parity"] == stored
    assert "It was not checked against the run" in (tmp_path / "out" / "README.md").read_text()


# ---------------------------------------------------------------------------------- templates in files


@needs_llama
@pytest.mark.parametrize(("name", "template"), [("llama", "model"), ("llama3", "human_assistant"), ("qwen2", "alpaca")])
def test_the_template_in_the_file_is_that_of_the_run(name: str, template: str, tmp_path: Path) -> None:
    """With the system prompt of the run and exactly one BOS, whatever the tokenizer does about it."""
    base = BUILDERS[name](tmp_path / "base")
    rows = write(tmp_path / "rows.jsonl", questions(8))
    system = "Be \"kind\".\nSay 'no' to {{ braces }}."
    made = train(
        tmp_path / "runs", base, rows, method="lora", task__name="instruct", task__template=template,
        task__system=system, train__max_steps=1,
    )  # fmt: skip
    assert made.export("gguf", rows=3)["parity"]["token_ids_equal"] == 1
    asked = {"chat": [{"role": "user", "content": "Where is it?"}]}
    _, (ids,) = through_llama(tmp_path, made.path / "export" / "gguf" / "model.gguf", [3], [asked])
    text = made.tuned.tokenizer.decode(ids)
    assert system in text
    assert text.count("<|begin_of_text|>") == (name == "llama3")


@needs_llama
def test_a_system_prompt_is_in_the_file_as_it_was_written(tiny_llama: Path, tmp_path: Path) -> None:
    """llama.cpp's own Jinja reads no escapes of characters."""
    gguf = pytest.importorskip("gguf")
    rows = write(tmp_path / "rows.jsonl", questions(8))
    system = "请用中文回答 🙂, “naïve” is fine."
    made = train(
        tmp_path / "runs", tiny_llama, rows, method="lora", task__name="instruct", task__system=system,
        train__max_steps=1,
    )  # fmt: skip
    assert made.export("gguf", rows=3)["parity"]["token_ids_equal"] == 1
    file = made.path / "export" / "gguf" / "model.gguf"
    template = gguf.GGUFReader(file).get_field("tokenizer.chat_template").contents()
    assert system in template and "\\u" not in template
    asked = [{"role": "user", "content": "Where is it?"}]
    own = [{"role": "system", "content": "Be brief."}, *asked]
    _, tokens = through_llama(tmp_path, file, [3], [{"chat": asked}, {"chat": own}])
    first, second = (made.tuned.tokenizer.decode(ids) for ids in tokens)
    assert first.count(system) == 1 and system not in second and second.count("Be brief.") == 1


# ------------------------------------------------------------------------------------------ as a server


@pytest.fixture
def server(run: Run, tmp_path: Path) -> Iterator[str]:
    """llama-cpp-python's server on the exported file: a real process and socket."""
    run.export("gguf", output=tmp_path / "served", rows=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(tmp_path / "served" / "model.gguf")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "256", "--n_threads", "1"]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"})
        try:
            url = f"http://127.0.0.1:{port}/v1"
            for _ in range(600):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                try:
                    urllib.request.urlopen(f"{url}/models", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(30)


@needs_llama
@pytest.mark.skipif(
    find_spec("sse_starlette") is None, reason="llama-cpp-python's server is not installed: tunery[llama]"
)
def test_llama_cpp_pythons_server_answers_as_the_run_does(server: str, run: Run) -> None:
    for row in questions(4):
        asked = [{"role": "user", "content": row["question"]}]
        body = {"model": "x", "messages": asked, "temperature": 0, "max_tokens": 4}
        request = urllib.request.Request(
            f"{server}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)["choices"][0]["message"]["content"]
        assert re.sub(r"\s+", " ", answer).strip() == re.sub(r"\s+", " ", run.generate(row["question"])).strip()
