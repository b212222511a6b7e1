"""Prefix-Tuning on every architecture: the attention it computes, what it leaves alone, and what it is worth."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from small import one_thread, questions, train, write  # noqa: F401
from tunery import registry
from tunery.errors import ConfigError, ModelError
from tunery.generate.engine import Sampling, generate
from tunery.models import prefix, prefix_peft
from tunery.models.attention import choose_attention
from tunery.train.optim import Optimizer

ALL = sorted(tiny.BUILDERS)
DECODERS = [name for name in ALL if name in ("llama", "gpt2", "qwen", "gemma")]
BOTH = [name for name in ALL if name in ("t5", "bart")]
LENGTH = 5
Made = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Tiny models with matrices eight times larger: attention then is not all but even."""
    root, found = tmp_path_factory.mktemp("prefix"), {}
    for name, build in tiny.BUILDERS.items():
        path = found[name] = build(root / name)
        file = path / "model.safetensors"
        tensors = {k: t * 8 if t.ndim > 1 and t.std() < 0.05 else t for k, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return found


@functools.cache
def loaded(folder: Path, kind: str) -> Any:
    return tiny.base_of(folder).load(kind)[0]


def bare(folders: Made, name: str, kind: str = "backbone") -> Any:
    return copy.deepcopy(loaded(folders[name], kind))


def tuned(folders: Made, name: str, kind: str = "backbone", **settings: Any) -> Any:
    """With a prefix of noise, so that it matters."""
    model = bare(folders, name, kind)
    with_noise(model, **settings)
    return model


def with_noise(model: Any, head: tuple[str, ...] = (), seed: int = 0, **settings: Any) -> None:
    torch.manual_seed(seed)
    prefix.attach(model, head, LENGTH, **settings)
    with torch.no_grad():
        for parameter in model.prefix.parameters():
            if parameter.requires_grad:
                parameter += 0.5 * torch.randn_like(parameter)


def batch(name: str, left: bool = False, lengths: tuple[int, ...] = (31, 7, 19)) -> dict[str, Tensor]:
    """Rows longer than the windows of Gemma and ModernBERT; what a decoder reads is padded in the same way."""
    numbers = torch.Generator().manual_seed(3)
    width = max(lengths)
    ids, mask = torch.full((len(lengths), width), 4), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        part = slice(width - length, width) if left else slice(length)
        ids[row, part] = torch.randint(6, 150, (length,), generator=numbers)
        mask[row, part] = 1
    found = {"input_ids": ids, "attention_mask": mask}
    if left:
        found["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return found | ({"decoder_input_ids": ids[:, :11]} if name in BOTH else {})


def hidden(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(**inputs).last_hidden_state
    return out


def kernel(model: Any, name: str) -> None:
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel):
            module.config._attn_implementation = name


# ------------------------------------------------------------------------------------- what it computes


def spied(model: Any) -> list[dict[str, Any]]:
    """What goes into and comes out of each attention function from now on."""
    calls: list[dict[str, Any]] = []
    for number, site in enumerate(model.prefix.sites):
        opened = site.module.config
        original = getattr(opened, "tunery_attention", None)
        if original is None:
            continue  # cross-attention without a prefix

        def spy(
            module: Any,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            mask: Any,
            *,
            _do: Any = original,
            _number: int = number,
            **rest: Any,
        ) -> Any:
            out = _do(module, query, key, value, mask, **rest)
            calls.append(
                {"number": _number, "module": module, "query": query, "key": key, "value": value, "out": out[0], **rest}
            )
            return out

        opened.tunery_attention = spy
    return calls


def visible(call: dict[str, Any], mask: Tensor) -> Tensor:
    """[rows, queries, keys]: which keys of the text a query may see, from first principles."""
    queries, keys = call["query"].shape[2], call["key"].shape[2]
    far = torch.arange(queries)[:, None] - torch.arange(keys)[None]
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    window = getattr(call["module"], "sliding_window", None)
    if call["module"].is_causal:
        allowed &= far >= 0
    if window:
        allowed &= far.abs() < window
    return allowed & mask[:, None, :keys].bool()


def by_hand(call: dict[str, Any], keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention over prefix and text in fp64 → [rows, queries, heads, size]."""
    query, groups = call["query"].double(), call["query"].shape[1] // call["key"].shape[1]
    key, value = (
        torch.cat([own.expand(len(query), -1, -1, -1), text], 2).double().repeat_interleave(groups, 1)
        for own, text in ((keys, call["key"]), (values, call["value"]))
    )
    scores = query @ key.transpose(-1, -2) * call["scaling"]
    if call.get("softcap"):
        scores = call["softcap"] * (scores / call["softcap"]).tanh()
    if call.get("position_bias") is not None:
        scores[..., keys.shape[1] :] += call["position_bias"]
    hide = ~torch.cat(
        [torch.ones(*scores.shape[:1], scores.shape[2], keys.shape[1], dtype=torch.bool), visible(call, mask)], 2
    )
    shares = scores.masked_fill(hide[:, None], -torch.inf).softmax(-1)
    return (shares @ value).transpose(1, 2)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [name for name in ALL if name != "deberta"])
def test_attention_is_that_over_prefix_and_text(name: str, padded: bool, implementation: str, folders: Made) -> None:
    if name == "gemma" and implementation == "sdpa":
        pytest.skip("Gemma 2 caps its scores, which SDPA cannot")
    model = tuned(folders, name, cross=True)
    kernel(model, implementation)
    inputs = batch(name, lengths=(31, 7, 19) if padded else (31, 31))
    if name in BOTH:
        inputs["decoder_attention_mask"] = inputs["attention_mask"][:, :11]
    calls = spied(model)
    hidden(model, inputs)
    assert len({call["number"] for call in calls}) == len(model.prefix.sites) == (6 if name in BOTH else 2)
    for call in calls:
        cross = model.prefix.found[call["number"]].cross
        stack = "decoder" if call["query"].shape[2] == 11 and not cross else ""
        mask = inputs[f"{stack}_attention_mask" if stack else "attention_mask"]
        one = model.prefix.of("default")
        expected = by_hand(call, one.keys[call["number"]], one.values[call["number"]], mask)
        real = (inputs["decoder_attention_mask"] if call["query"].shape[2] == 11 else mask).bool()
        torch.testing.assert_close(call["out"].double()[real], expected[real], rtol=1e-4, atol=1e-5)


def test_a_prefix_enters_disentangled_attention_as_content(folders: Made) -> None:
    """With one vector the output is (1 - w) base + w value, and log w/(1 - w) is linear in its key."""
    module = bare(folders, "deberta").encoder.layer[0].attention.self
    states, mask = torch.randn(2, 9, 32), torch.ones(2, 1, 9, 9)
    relative = torch.randn(32, 32)
    base = module(states, mask, rel_embeddings=relative)[0].view(2, 9, 4, 8).transpose(1, 2)
    logits = []
    keys = [torch.randn(4, 1, 8), torch.randn(4, 1, 8)]
    for key in keys:
        value = 3 * torch.randn(4, 1, 8)
        from tunery.models.prefix_attention import Site

        site = Site(module, lambda rows, k=key, v=value: (k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)))
        site.open()
        out = module(states, mask, rel_embeddings=relative)[0].view(2, 9, 4, 8).transpose(1, 2)
        site.close()
        share = (out - base) / (value - base)
        torch.testing.assert_close(share, share[..., :1].expand_as(share), rtol=1e-2, atol=1e-3)
        share = ((out - base) * (value - base)).sum(-1) / (value - base).pow(2).sum(-1)
        assert ((share > 0) & (share < 1)).all()
        logits.append(torch.log(share / (1 - share)))
    query = module.query_proj(states).view(2, 9, 4, 8).transpose(1, 2)
    expected = (query @ (keys[0] - keys[1]).transpose(-1, -2)).squeeze(-1) / math.sqrt(8 * 3)
    torch.testing.assert_close(logits[0] - logits[1], expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(module(states, mask, rel_embeddings=relative)[0].view(2, 9, 4, 8).transpose(1, 2), base)


@pytest.mark.parametrize("projection", [0, 16])
@pytest.mark.parametrize(("name", "left"), [*((n, False) for n in ALL), *((n, True) for n in DECODERS)])
def test_a_batch_is_its_rows(name: str, left: bool, projection: int, folders: Made) -> None:
    model = tuned(folders, name, projection=projection)
    inputs = batch(name, left)
    together = hidden(model, inputs)
    for row, real in enumerate(inputs["attention_mask"].bool()):
        alone = {k: v[row : row + 1] if k == "decoder_input_ids" else v[row : row + 1, real] for k, v in inputs.items()}
        expected = hidden(model, alone)[0]
        found = together[row] if name in BOTH else together[row, real]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    unseen = hidden(bare(folders, name), inputs)
    assert (together - unseen).abs()[inputs["attention_mask"][:, : together.shape[1]] == 1].mean() > 1e-2


@pytest.mark.parametrize("name", ALL)
def test_kernels_agree(name: str, folders: Made) -> None:
    model, inputs = tuned(folders, name), batch(name)
    eager_only = name in ("gemma", "deberta")
    found = []
    for implementation in ("eager",) if eager_only else ("eager", "sdpa"):
        kernel(model, implementation)
        found.append(hidden(model, inputs))
    choose_attention(model, inputs["input_ids"].shape, torch.device("cpu"))
    found += [hidden(model, inputs), model(**inputs).last_hidden_state.detach()]
    assert torch.equal(found[-2], hidden(model, inputs)), "the same shapes give the same bits"
    real = inputs["attention_mask"][:, : found[0].shape[1]].bool()
    for other in found[1:]:
        torch.testing.assert_close(other[real], found[0][real], rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------- training


def gradients(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(7)
    model.zero_grad()
    out = model(**inputs).last_hidden_state
    out[inputs["attention_mask"][:, : out.shape[1]] == 1].pow(2).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("projection", [0, 16])
@pytest.mark.parametrize("name", ALL)
def test_checkpointing_changes_no_gradient(name: str, projection: int, folders: Made) -> None:
    """With dropout on the vectors and in the model: what is computed again is computed with the same noise."""
    model = tuned(folders, name, projection=projection, dropout=0.3, cross=True).train()
    inputs = batch(name)
    choose_attention(model, inputs["input_ids"].shape, torch.device("cpu"))
    expected = gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, inputs)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys() == names
    assert all(n.startswith("prefix.0.") for n in names)
    for key, grad in expected.items():
        assert grad.abs().max() > 0, key
        torch.testing.assert_close(found[key], grad, rtol=1e-4, atol=1e-6, msg=key)


def test_dropout_is_for_training(folders: Made) -> None:
    model, inputs = tuned(folders, "llama", dropout=0.5), batch("llama")
    assert torch.equal(hidden(model, inputs), hidden(model, inputs))
    assert not torch.equal(hidden(model.train(), inputs), hidden(model, inputs))


@pytest.mark.parametrize("change", ["step", "load"])
def test_what_decoding_keeps_follows_the_weights(change: str, folders: Made) -> None:
    model, inputs = tuned(folders, "llama", projection=16), batch("llama")
    before = hidden(model, inputs)
    if change == "step":
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        optimizer = Optimizer([{"named": named, "lr_scale": 1.0}], 0.1, 0.0)
        gradients(model, inputs)
        optimizer.collect()
        optimizer.step(1.0, 0, 1.0)
    else:
        with_noise(model, projection=16, seed=1)
    after = hidden(model, inputs)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, model(**inputs).last_hidden_state.detach(), rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("projection", [0, 16])
@pytest.mark.parametrize("name", DECODERS)
def test_each_step_of_decoding_sees_the_prefix_once(name: str, projection: int, folders: Made) -> None:
    """Greedy text with a cache, several prompts at once, is that of whole passes without one."""
    model = tuned(folders, name, "causal_lm", projection=projection)
    prompts = [list(range(20, 20 + n)) for n in (3, 24, 11)]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        expected.append(ids[len(prompt) :])
    assert generate(model, prompts, (), Sampling(max_new_tokens=8)) == expected
    assert generate(bare(folders, name, "causal_lm"), prompts, (), Sampling(max_new_tokens=8)) != expected


@pytest.mark.parametrize("name", BOTH)
def test_an_encoder_decoder_decodes_with_its_prefix(name: str, folders: Made) -> None:
    model = tuned(folders, name, "seq2seq_lm", cross=True)
    prompts = [list(range(20, 20 + n)) for n in (3, 24, 11)]
    expected = []
    for prompt in prompts:
        read = [model.config.decoder_start_token_id]
        for _ in range(8):
            with torch.no_grad():
                ids = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([read])}
                read.append(int(model(**ids, use_cache=False).logits[0, -1].argmax()))
        expected.append(read[1:])
    assert generate(model, prompts, (), Sampling(max_new_tokens=8)) == expected


# ------------------------------------------------------------------------------------------ from a text


@pytest.mark.parametrize("name", DECODERS)
def test_a_text_as_prefix_is_having_read_it(name: str, folders: Made) -> None:
    """For causal models: exactly with rotary positions, and with learnt ones if the row is told its place."""
    model = bare(folders, name)
    text, ids = torch.arange(30, 37), torch.randint(6, 150, (1, 8))  # together within Gemma's window
    expected = hidden(model, {"input_ids": torch.cat([text[None], ids], 1)})[:, 7:]
    prefix.attach(model, (), text.tolist())
    shifted = {"position_ids": torch.arange(7, 15)[None]} if name == "gpt2" else {}
    found = hidden(model, {"input_ids": ids, **shifted})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if name == "gpt2":
        assert (hidden(model, {"input_ids": ids}) - expected).abs().max() > 1e-2, "at its own place it reads otherwise"


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta", "t5"])
def test_the_first_layer_of_an_encoder_sees_the_text(name: str, folders: Made) -> None:
    """What a text is to an encoder's row is not what it would be in one sequence: its deeper layers did not see
    the row. Its keys and values in the first layer are the text's own.
    """
    model, text = bare(folders, name), torch.arange(30, 37)
    prefix.attach(model, (), text.tolist())
    one = model.prefix.of("default")
    words = model.get_input_embeddings()
    assert one.keys[0].shape == (4, 7, 8)
    order = torch.tensor([1, 0, 2, 3, 4, 5, 6])
    prefix.attach(model, (), text[order].tolist(), name="other")
    if name == "t5":  # no position in keys and values
        torch.testing.assert_close(model.prefix.of("other").values[0], one.values[0][:, order])
    assert not torch.equal(model.prefix.of("other").keys[1], one.keys[1])
    assert torch.isfinite(words.weight).all()


def test_a_projection_starts_at_its_text(folders: Made) -> None:
    flat, made, inputs = bare(folders, "llama"), bare(folders, "llama"), batch("llama")
    prefix.attach(flat, (), list(range(30, 37)))
    prefix.attach(made, (), list(range(30, 37)), projection=16)
    assert torch.equal(hidden(flat, inputs), hidden(made, inputs))


# ------------------------------------------------------------------------------- several, saved, loaded


@pytest.mark.parametrize("name", ALL)
def test_switched_off_it_is_the_base(name: str, folders: Made) -> None:
    model, inputs = bare(folders, name), batch(name)
    before, configs = hidden(model, inputs), [getattr(m, "config", None) for m in model.modules()]
    with_noise(model)
    assert all(p.is_contiguous() for p in model.prefix.parameters()), "as their moments are after resuming"
    during = hidden(model, inputs)
    prefix.activate(model, None)
    assert torch.equal(hidden(model, inputs), before)
    assert all(getattr(m, "config", None) is c for m, c in zip(model.modules(), configs, strict=False))
    prefix.activate(model, "default")
    assert torch.equal(hidden(model, inputs), during)
    assert not torch.equal(before, during)


@pytest.mark.parametrize("settings", [{}, {"projection": 16}, {"cross": True}], ids=str)
@pytest.mark.parametrize("name", ["bert", "llama", "deberta", "bart"])
def test_saved_and_loaded_bit_by_bit(name: str, settings: dict[str, Any], folders: Made, tmp_path: Path) -> None:
    model, inputs = tuned(folders, name, **settings), batch(name)
    prefix.save(model, tmp_path)
    again = bare(folders, name)
    before = hidden(again, inputs)
    prefix.load(again, tmp_path, (), "a name")
    assert torch.equal(hidden(again, inputs), hidden(model, inputs))
    prefix.activate(again, None)
    assert torch.equal(hidden(again, inputs), before)


def test_several_prefixes_of_different_kinds(folders: Made, tmp_path: Path) -> None:
    """Each with its own head; the base keeps its own too."""
    kinds: list[dict[str, Any]] = [{}, {"projection": 16}]
    inputs, expected = batch("bert"), []
    for number, settings in enumerate(kinds):
        torch.manual_seed(9)
        model, head = tiny.base_of(folders["bert"]).load("sequence_classification", num_labels=2)
        with_noise(model, head, seed=number, **settings)
        with torch.no_grad():
            model.classifier.weight.add_(number + 1)
            expected.append(model(**inputs).logits)
        (tmp_path / str(number)).mkdir()
        prefix.save(model, tmp_path / str(number))
    torch.manual_seed(9)
    model, head = tiny.base_of(folders["bert"]).load("sequence_classification", num_labels=2)
    with torch.no_grad():
        before = model(**inputs).logits
        for number in range(2):
            prefix.load(model, tmp_path / str(number), head, f"run.{number}")
        for number in (0, 1, 0):
            prefix.activate(model, f"run.{number}")
            assert torch.equal(model(**inputs).logits, expected[number])
        prefix.activate(model, None)
        assert torch.equal(model(**inputs).logits, before)
    with pytest.raises(ModelError, match=r"run\.0"):
        prefix.activate(model, "run.2")


def test_a_prefix_of_another_base_is_refused(folders: Made, tmp_path: Path) -> None:
    for name, other in (("llama", "qwen"), ("bert", "bart")):
        folder = tmp_path / name
        folder.mkdir()
        prefix.save(tuned(folders, name), folder)
        with pytest.raises(ModelError):
            prefix.load(bare(folders, other), folder, (), "default")


@pytest.mark.parametrize(("name", "fits"), [("llama", True), ("qwen", True), ("gpt2", False), ("gemma", False)])
def test_plain_peft_computes_the_same_where_we_say_so(name: str, fits: bool, folders: Made, tmp_path: Path) -> None:
    from peft import PeftModel

    model, inputs = tuned(folders, name, "causal_lm"), batch(name)
    assert prefix_peft.fits(model) is fits
    if not fits:
        return
    prefix_peft.save(model, tmp_path)
    plain = PeftModel.from_pretrained(bare(folders, name, "causal_lm"), tmp_path)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits[real], model(**inputs).logits[real], rtol=1e-4, atol=1e-4)
    prefix.attach(model, (), 3, projection=4)
    assert not prefix_peft.fits(model), "peft would want the projection's own weights"
    assert not prefix_peft.fits(tuned(folders, name)), "not a language model"


# ------------------------------------------------------------------------------------------- the method


def method(**settings: Any) -> Any:
    kind = registry.get("method", "prefix")
    return kind(kind.Config(**settings))


def prepared(folder: Path, **settings: Any) -> Any:
    made, task = method(**settings), registry.get("task", "instruct")
    made.prepare(task(task.Config()), tiny.base_of(folder).tokenizer)
    return made


def test_length_of_a_text(folders: Made) -> None:
    text, model = "What is the capital of France?", bare(folders, "llama")
    tokens = tiny.base_of(folders["llama"]).tokenizer(text, add_special_tokens=False)["input_ids"]
    for length, expected in ((None, len(tokens)), (3, 3), (50, 50)):
        made = prepared(folders["llama"], init="text", text=text, length=length)
        made.attach(model, ())
        assert model.prefix.of("default").keys[0].shape == (2, expected, 8)
    method().attach(model, ())
    assert model.prefix.of("default").keys[0].shape[1] == 20


@pytest.mark.parametrize("settings", [{"init": "text"}, {"text": "a text"}, {"init": "text", "text": "  "}], ids=str)
def test_a_text_needs_init_and_the_other_way_round(settings: dict[str, Any], folders: Made) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(folders["llama"], **settings)
    assert caught.value.where == "method.text"


def test_refusals_name_a_reason_and_an_alternative(folders: Made) -> None:
    bloom = transformers.BloomModel(transformers.BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4))
    for made, model in ((method(), bloom), (method(length=600), bare(folders, "gpt2"))):
        problem, _, hint = str(made.refuses(None, model)).partition("; ")
        assert problem
        assert hint
    for name in ALL:
        assert method(length=400).refuses(None, bare(folders, name)) is None
    assert method(length=600).refuses(None, bare(folders, "llama")) is None, "rotary positions have no end"
    assert "merging" in method().merge(bloom)


def test_a_projection_resumes_exactly(folders: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own weights are in the checkpoint and in the run, and so is the text it began with."""
    from tunery.run import train as training
    from tunery.train.loop import Trainer

    data = write(tmp_path / "rows.jsonl", questions(4, longest=3))
    settings = {"projection": True, "projection_hidden": 16, "init": "text", "text": "Hello there", "dropout": 0.1}
    changes: dict[str, Any] = {"method": {"name": "prefix", **settings}, "data__validation": str(data)}
    changes |= {"train__max_steps": 3, "train__checkpoint_every": 2, "train__batch_size": 2, "eval__generate_rows": 0}
    whole = train(tmp_path / "whole", folders["llama"], data, **changes)
    original = Trainer.step

    def dying(self: Trainer) -> dict[str, float]:
        if self.now.step == 2:
            raise SystemExit("killed")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", dying)
        with pytest.raises(SystemExit):
            train(tmp_path / "cut", folders["llama"], data, run__name="cut", **changes)
    training.resume(tmp_path / "cut/cut")
    stored, again = (load_file(path / "model" / prefix.FILE) for path in (whole.path, tmp_path / "cut/cut"))
    assert {"prefix.keys.0", "prefix.embedding", "prefix.hidden.weight", "prefix.outputs.1"} <= stored.keys()
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    assert not (whole.path / "model/peft").exists()


def test_peft_format_beside_ours(folders: Made, tmp_path: Path) -> None:
    model = tuned(folders, "llama", "causal_lm")
    method().save(model, tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {prefix.FILE, "peft/adapter_config.json", "peft/adapter_model.safetensors"}


def test_a_quantised_base(folders: Made) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = tiny.base_of(folders["llama"], quantise="nf4").load("backbone")
    assert method().refuses(None, model) is None
    with_noise(model)
    inputs = batch("llama")
    found = gradients(model, inputs)
    assert found.keys() == {n for n, _ in model.named_parameters() if n.startswith("prefix.")}
    torch.testing.assert_close(hidden(model, inputs), model(**inputs).last_hidden_state.detach(), rtol=1e-3, atol=1e-3)


def test_gpt2_with_reordered_attention(folders: Made) -> None:
    """Its eager kernel is a method of the module."""
    model, inputs = bare(folders, "gpt2"), batch("gpt2")
    for block in model.h:
        block.attn.reorder_and_upcast_attn = True
    with_noise(model)
    kernel(model, "sdpa")
    expected = hidden(model, inputs)
    kernel(model, "eager")
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(hidden(model, inputs)[real], expected[real], rtol=1e-4, atol=1e-4)
