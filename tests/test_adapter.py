"""Bottleneck adapters: where they are in each architecture, what they compute, and several of them over one base."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from torch.nn import functional as F

from small import one_thread  # noqa: F401
from tunery.errors import ConfigError, ModelError
from tunery.methods.adapter import Adapter
from tunery.models import bottleneck, sites, weights
from tunery.models.bottleneck_layers import Bottleneck
from tunery.models.heads import PooledClassifier

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GQA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64}
GEMMA = {**GQA, "head_dim": 8, "sliding_window": 8}
ENCODER = {**SIZES, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BOTH: dict[str, Any] = {"d_model": 32, "vocab_size": 60, "encoder_layers": 3, "decoder_layers": 2}
BOTH |= {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in (("ffn_dim", 48), ("attention_heads", 4))}
BOTH |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "dropout": 0.0}
BOTH |= {"max_position_embeddings": 64, "forced_eos_token_id": None}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 60}
T5 |= {"decoder_start_token_id": 0, "dropout_rate": 0.0}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 60, "resid_pdrop": 0.0}
GPT2 |= {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "vocab_size": 60, "dropout": 0.0}
DISTIL |= {"attention_dropout": 0.0, "max_position_embeddings": 64}
NEOX = {**SIZES, "max_position_embeddings": 64}
DEBERTA = {**ENCODER, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}

BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
LLAMA_NORM = ("post_attention_layernorm",)
MODELS: dict[str, tuple[Callable[[], Any], bool, tuple[str, ...]]] = {
    "bert": (lambda: tf.BertForMaskedLM(tf.BertConfig(**ENCODER)), True, BERT_NORMS),
    "roberta": (lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**ENCODER)), True, BERT_NORMS),
    "xlm-roberta": (lambda: tf.XLMRobertaForMaskedLM(tf.XLMRobertaConfig(**ENCODER)), True, BERT_NORMS),
    "electra": (lambda: tf.ElectraForMaskedLM(tf.ElectraConfig(**ENCODER, embedding_size=32)), True, BERT_NORMS),
    "deberta-v2": (lambda: tf.DebertaV2ForMaskedLM(tf.DebertaV2Config(**DEBERTA)), True, BERT_NORMS),
    "distilbert": (
        lambda: tf.DistilBertForMaskedLM(tf.DistilBertConfig(**DISTIL)), True, ("sa_layer_norm", "output_layer_norm")
    ),
    "modernbert": (lambda: tf.ModernBertForMaskedLM(tf.ModernBertConfig(**GQA)), False, ("mlp_norm",)),
    "gpt2": (lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2)), False, ("ln_2",)),
    "gpt-neox": (
        lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**NEOX, use_parallel_residual=False)), False, LLAMA_NORM
    ),
    "bloom": (lambda: tf.BloomForCausalLM(tf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=3, n_head=4)), False,
              LLAMA_NORM),
    "opt": (lambda: tf.OPTForCausalLM(tf.OPTConfig(**GQA, ffn_dim=48, dropout=0.0, word_embed_proj_dim=32)), False,
            ("final_layer_norm",)),
    "llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GQA)), False, LLAMA_NORM),
    "mistral": (lambda: tf.MistralForCausalLM(tf.MistralConfig(**GQA)), False, LLAMA_NORM),
    "smollm3": (lambda: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**GQA)), False, LLAMA_NORM),
    "qwen2": (lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GQA)), False, LLAMA_NORM),
    "qwen3": (lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GQA, head_dim=8)), False, LLAMA_NORM),
    "gemma": (lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**GQA, head_dim=8)), False, LLAMA_NORM),
    "gemma2": (lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**GEMMA)), False, ("pre_feedforward_layernorm",)),
    "gemma3": (lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**GEMMA)), False, ("pre_feedforward_layernorm",)),
    "phi3": (lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**GQA)), False, LLAMA_NORM),
    "t5": (lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)), False, ("layer.-1.layer_norm",)),
    "mt5": (lambda: tf.MT5ForConditionalGeneration(tf.MT5Config(**T5)), False, ("layer.-1.layer_norm",)),
    "bart": (
        lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BOTH)), True,
        ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ),
    "marian": (
        lambda: tf.MarianMTModel(tf.MarianConfig(**BOTH)), True,
        ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ),
    "mbart": (lambda: tf.MBartForConditionalGeneration(tf.MBartConfig(**BOTH)), False, ("final_layer_norm",)),
}  # fmt: skip
"""→ how to build one, whether its norms come after the sums, and those norms in order (else: the feed-forward's)."""
GENERATING = ("llama", "gpt2", "gemma3", "bloom", "t5", "bart")


def build(name: str) -> Any:
    """In evaluation mode, with weights large enough that a wrong place shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = MODELS[name][0]().eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def inputs(model: Any, rows: int = 2, length: int = 7) -> dict[str, Tensor]:
    ids = torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(1))
    both = getattr(model.config, "is_encoder_decoder", False)
    return {"input_ids": ids, **({"decoder_input_ids": ids.flip(1)[:, :5]} if both else {})}


@torch.no_grad()
def logits(model: Any, **given: Tensor) -> Tensor:
    out = model(**(given or inputs(model)))
    return getattr(out, "logits", out).clone()


def method(**settings: Any) -> Adapter:
    return Adapter(Adapter.Config(**settings))


def attached(name: str, head: tuple[str, ...] = (), **settings: Any) -> tuple[Any, Adapter]:
    """A model with an adapter, reduction 8 if not said otherwise, as it is before training."""
    model, adapter = build(name), method(**{"reduction": 8, **settings})
    torch.manual_seed(3)
    adapter.attach(model, head)
    return model, adapter


def teach(model: nn.Module, seed: int = 0) -> None:
    """What training would do to the free parameters: other values."""
    random = torch.Generator().manual_seed(seed)
    for parameter in weights.trainable(model).values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=random)


def layers_of(model: nn.Module) -> list[nn.Module]:
    return [layer for _, layers in sites.stacks(model) for layer in layers]


def at(layer: Any, path: str) -> Any:
    for part in path.split("."):
        layer = layer[int(part)] if isinstance(layer, nn.ModuleList) else getattr(layer, part)
    return layer


def own_norms(layer: nn.Module, norms: tuple[str, ...]) -> list[str]:
    """Those that this layer has: an encoder has no cross-attention."""
    return [norm for norm in norms if hasattr(layer, norm.split(".")[0])]


def watch(modules: list[nn.Module], run: Callable[[], Any]) -> list[tuple[Tensor, Tensor]]:
    """→ input and output of each module in a forward pass."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        seen[id(module)] = (first.clone(), (out[0] if isinstance(out, tuple) else out).clone())

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    run()
    for handle in handles:
        handle.remove()
    return [seen[id(module)] for module in modules]


# ------------------------------------------------------------------------------------ the right place


@pytest.mark.parametrize("name", MODELS)
def test_houlsby_is_inside_every_residual(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter that takes away all it reads leaves the residual stream alone: nothing else reaches the sum."""
    _, after, norms = MODELS[name]
    model, _ = attached(name)
    monkeypatch.setattr(Bottleneck, "forward", lambda self, x: -x)
    for layer, (x, y) in zip(layers_of(model), watch(layers_of(model), lambda: logits(model)), strict=True):
        for norm in own_norms(layer, norms) if after else ():
            x = at(layer, norm)(x)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_comes_between_adapter_and_sum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No norm, in particular: where Gemma 2 and 3 have one after the sub-layer, the adapter is behind it."""
    _, after, norms = MODELS[name]
    base, (model, _) = build(name), attached(name, layers=[0])
    monkeypatch.setattr(Bottleneck, "forward", lambda self, x: torch.ones_like(x))
    sums = []
    for each in (base, model):
        layer = layers_of(each)[0]
        norm = at(layer, norms[0] if after else norms[-1])  # it reads the sum behind attention
        ((x, _),) = watch([norm], lambda each=each: logits(each))
        sums.append(x)
    torch.testing.assert_close(sums[1], sums[0] + 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_pfeiffer_is_after_the_feed_forward_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, after, norms = MODELS[name]
    model, _ = attached(name, placement="pfeiffer")
    monkeypatch.setattr(Bottleneck, "forward", lambda self, x: -x)
    layers = layers_of(model)
    last = norms[-1]
    before = [at(layer, own_norms(layer, norms)[-2 if after else -1]) for layer in layers]
    seen = watch([*layers, *before], lambda: logits(model))
    for layer, (x, y), (into, out) in zip(layers, seen[: len(layers)], seen[len(layers) :], strict=True):
        expected = at(layer, last)(out) if after else into
        torch.testing.assert_close(y, expected.view_as(y), rtol=0, atol=1e-5)
        assert not torch.allclose(y, x, atol=1e-3), "attention still does its work"


@pytest.mark.parametrize("name", MODELS)
def test_parallel_reads_what_the_feed_forward_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And adds to what it gives."""
    _, after, norms = MODELS[name]
    base, (model, _) = build(name), attached(name, placement="parallel", layers=[0])
    read: list[Tensor] = []
    monkeypatch.setattr(Bottleneck, "forward", lambda self, x: read.append(x.clone()) or torch.ones_like(x))
    for number, (stack, _) in enumerate(sites.stacks(model)):
        mine, plain = (each.get_submodule(f"{stack}.0") for each in (model, base))
        *_, reads, last = [None, *own_norms(plain, norms)] if after else [own_norms(plain, norms)[-1], None]
        ends = [mine, plain] if last is None else [at(mine, last), at(plain, last)]
        read.clear()
        (_, x), tuned = watch([at(mine, reads), ends[0]], lambda: logits(model))
        torch.testing.assert_close(read[number], x.view_as(read[number]), rtol=0, atol=0)
        if number == 0:  # the decoder's layers read another encoder's output
            (bare,) = watch([ends[1]], lambda: logits(base))
            added = tuned[0] - bare[0] if after else tuned[1] - bare[1]
            torch.testing.assert_close(added, torch.ones_like(added), rtol=0, atol=1e-5)


def bottleneck_by_hand(state: dict[str, Tensor], place: str, x: Tensor) -> Tensor:
    """gelu(x D' + d) U' + u, with d and u."""
    inner = x @ state[f"{place}.down.weight"].T + state[f"{place}.down.bias"]
    gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return gelu @ state[f"{place}.up.weight"].T + state[f"{place}.up.bias"]


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    def split(t: Tensor) -> Tensor:
        return t.view(*t.shape[:2], heads, -1).transpose(1, 2)

    scores = split(q) @ split(k).transpose(2, 3) / (q.shape[-1] // heads) ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) == 1, float("-inf"))
    return (scores.softmax(-1) @ split(v)).transpose(1, 2).reshape(q.shape)


def test_a_layer_of_bert_by_hand() -> None:
    model, _ = attached("bert", scale=0.5)
    teach(model)
    layer = model.bert.encoder.layer[1]
    ((x, y),) = watch([layer], lambda: logits(model))
    s = dict(layer.state_dict())

    def linear(t: Tensor, at: str) -> Tensor:
        return t @ s[f"{at}.weight"].T + s[f"{at}.bias"]

    def norm(t: Tensor, at: str) -> Tensor:
        unit = (t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
        return unit * s[f"{at}.weight"] + s[f"{at}.bias"]

    q, k, v = (linear(x, f"attention.self.{part}") for part in ("query", "key", "value"))
    h = linear(attention_by_hand(q, k, v, 4, causal=False), "attention.output.dense")
    h = h + 0.5 * bottleneck_by_hand(s, "adapters.attention.0", h)
    middle = norm(h + x, "attention.output.LayerNorm")
    h = linear(F.gelu(linear(middle, "intermediate.dense")), "output.dense")
    h = h + 0.5 * bottleneck_by_hand(s, "adapters.feed_forward.0", h)
    torch.testing.assert_close(y, norm(h + middle, "output.LayerNorm"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
def test_a_layer_of_llama_by_hand(placement: str) -> None:
    model, _ = attached("llama", placement=placement, activation="gelu", scale=2.0)
    teach(model)
    layer = model.model.layers[2]
    ((x, y),) = watch([layer], lambda: logits(model))
    s = dict(layer.state_dict())

    def norm(t: Tensor, at: str) -> Tensor:
        return t * (t.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * s[f"{at}.weight"]

    def turned(t: Tensor, heads: int) -> Tensor:
        angle = torch.outer(torch.arange(t.shape[1]).float(), 10000 ** -(torch.arange(0, 8, 2) / 8)).repeat(1, 2)
        one, two = (t := t.view(*t.shape[:2], heads, 8)).chunk(2, -1)
        spun = t * angle.cos()[:, None] + torch.cat([-two, one], -1) * angle.sin()[:, None]
        return spun.flatten(2)

    n = norm(x, "input_layernorm")
    q, k, v = (n @ s[f"self_attn.{p}_proj.weight"].T for p in "qkv")
    k, v = turned(k, 2), v
    k, v = (t.view(*t.shape[:2], 2, 8).repeat_interleave(2, 2).flatten(2) for t in (k, v))
    h = attention_by_hand(turned(q, 4), k, v, 4, causal=True) @ s["self_attn.o_proj.weight"].T
    if placement == "houlsby":
        h = h + 2 * bottleneck_by_hand(s, "adapters.attention.0", h)
    middle = x + h
    n = norm(middle, "post_attention_layernorm")
    gate, up = (n @ s[f"mlp.{p}_proj.weight"].T for p in ("gate", "up"))
    h = (F.silu(gate) * up) @ s["mlp.down_proj.weight"].T
    h = h + 2 * bottleneck_by_hand(s, "adapters.feed_forward.0", n if placement == "parallel" else h)
    torch.testing.assert_close(y, middle + h, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_start_is_the_base_and_every_part_learns(name: str, placement: str) -> None:
    base, (model, adapter) = build(name), attached(name, placement=placement, scale="learned")
    assert torch.equal(logits(model), logits(base))
    before = {key: p.clone() for key, p in base.named_parameters()}
    own = {key: p for key, p in model.named_parameters() if ".adapters." not in key}
    assert own.keys() == before.keys()
    assert all(torch.equal(own[key], before[key]) and not own[key].requires_grad for key in own)

    encoder, decoder = (3, 2) if len(sites.stacks(model)) == 2 else (3, 0)
    places = (2 * encoder + 3 * decoder) if placement == "houlsby" else encoder + decoder
    trained = weights.trainable(model)
    assert sum(p.numel() for p in trained.values()) == places * (2 * 32 * 4 + 4 + 32 + 1)

    teach(model)
    assert not torch.allclose(logits(model), logits(base), atol=1e-3)
    model(**inputs(model)).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    adapter.activate(model, None)
    assert torch.equal(logits(model), logits(base))


def test_settings() -> None:
    model, _ = attached("llama", reduction=None, layers=[-1])
    assert {key.rpartition(".adapters.")[0] for key in weights.trainable(model)} == {"model.layers.2"}
    assert model.model.layers[2].adapters["attention"]["0"].down.weight.shape == (2, 32), "32 / 16"
    model, _ = attached("llama", reduction=None, placement="parallel")
    found = model.model.layers[0].adapters["feed_forward"]["0"]
    assert found.down.weight.shape == (16, 32)
    assert (found.scale, found.activation) == (4.0, F.relu)
    model, _ = attached("llama", reduction=1000)
    assert model.model.layers[0].adapters["attention"]["0"].down.weight.shape == (1, 32), "at least one"
    with pytest.raises(ConfigError, match="no layer 3") as caught:
        attached("llama", layers=[0, 3])
    assert caught.value.where == "method.layers"


def test_dropout_is_between_the_projections() -> None:
    model, _ = attached("llama", dropout=0.5)
    teach(model)
    model.train()
    assert not torch.equal(logits(model), logits(model))
    model.eval()
    assert torch.equal(logits(model), logits(model))


def test_an_unknown_architecture_is_refused() -> None:
    """OLMo 2 has the names of Llama's modules and norms in another order: a guess would be silently wrong."""
    model = tf.Olmo2ForCausalLM(tf.Olmo2Config(**GQA))
    reason = method().refuses(None, model)
    assert reason == "it is not known where Olmo2DecoderLayer adds its residuals; use method=lora"
    with pytest.raises(ModelError, match="Olmo2DecoderLayer"):
        method().attach(model, ())
    assert not bottleneck.names(model)
    assert method().refuses(None, build("llama")) is None


def test_default_rates_fall_with_size() -> None:
    assert [method().default_lr(n, "decoder") for n in (10**8, 5 * 10**8, 7 * 10**9)] == [1e-3, 3e-4, 1e-4]


# ------------------------------------------------------------------------------- several over one base


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, tuple[Path, Tensor]]:
    """Two adapters of different shapes for the tiny llama, on disk → folder, logits."""
    found = {}
    for seed, (name, settings) in enumerate({"a": {}, "b": {"placement": "pfeiffer", "reduction": 4}}.items()):
        model, adapter = attached("llama", **settings)
        teach(model, seed)
        (tmp_path / name).mkdir()
        adapter.save(model, tmp_path / name)
        found[name] = (tmp_path / name, logits(model))
    return found


def test_switch_disable_delete_save_and_reload(stored: dict[str, tuple[Path, Tensor]], tmp_path: Path) -> None:
    base, model, adapter = build("llama"), build("llama"), method()
    state = torch.get_rng_state()
    for name, (folder, _) in stored.items():
        adapter.load(model, folder, (), name)
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers"
    assert bottleneck.names(model) == ["a", "b"]
    assert torch.equal(logits(model), stored["a"][1]), "the first one is active"
    for name in ("b", "a", None, "b", "a"):
        adapter.activate(model, name)
        assert torch.equal(logits(model), stored[name][1] if name else logits(base))
    assert not weights.trainable(model)

    for name, (folder, _) in stored.items():
        again = tmp_path / f"again-{name}"
        again.mkdir()
        adapter.save(model, again, name)
        for file in (bottleneck.WEIGHTS, bottleneck.SETTINGS):
            assert (again / file).read_bytes() == (folder / file).read_bytes()

    adapter.delete(model, "a")
    assert torch.equal(logits(model), logits(base)), "it was active"
    adapter.activate(model, "b")
    assert torch.equal(logits(model), stored["b"][1])
    adapter.load(model, stored["a"][0], (), "a.2: 中文")
    assert torch.equal(logits(model), stored["b"][1]), "loading changes nothing"
    adapter.activate(model, "a.2: 中文")
    assert torch.equal(logits(model), stored["a"][1])
    adapter.delete(model, "b")
    assert torch.equal(logits(model), stored["a"][1]), "the other one goes on"
    adapter.delete(model, "a.2: 中文")
    assert [name for name, _ in model.named_modules()] == [name for name, _ in base.named_modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(logits(model), logits(base))


def test_a_new_adapter_trains_beside_an_old_one(stored: dict[str, tuple[Path, Tensor]]) -> None:
    model, adapter = build("llama"), method(reduction=8)
    adapter.load(model, stored["a"][0], (), "a")
    adapter.add(model, (), "new")
    assert torch.equal(logits(model), logits(build("llama")))
    assert {key.split(".adapters.")[1].split(".")[1] for key in weights.trainable(model)} == {"1"}
    teach(model)
    tuned = logits(model)
    adapter.activate(model, "a")
    assert torch.equal(logits(model), stored["a"][1])
    adapter.activate(model, "new")
    assert torch.equal(logits(model), tuned)


def by_hand(folders: list[Path], change: Callable[[Tensor, list[dict[str, Tensor]], str], Tensor]) -> Tensor:
    """Logits of the base with a function of h and the adapters' tensors in each place; no code of ours but reading."""
    model = build("llama")
    states = [weights.read(folder / bottleneck.WEIGHTS) for folder in folders]
    for i, layer in enumerate(model.model.layers):
        for module, name in ((layer.self_attn.o_proj, "attention"), (layer.mlp, "feed_forward")):
            place = f"model.layers.{i}.adapters.{name}"
            own = [{k.removeprefix(place): v for k, v in s.items() if k.startswith(place)} for s in states]
            module.register_forward_hook(
                lambda _m, _a, h, own=own, name=name: change(h, own, name)  # what is returned replaces h
            )
    return logits(model)


def part(h: Tensor, state: dict[str, Tensor], kind: str) -> Tensor:
    if not state:  # this adapter has none here
        return torch.zeros_like(h)
    f = F.gelu if kind == "a" else F.relu
    inner = f(h @ state[".down.weight"].T + state[".down.bias"])
    return inner @ state[".up.weight"].T + state[".up.bias"]


def test_stack_and_average(stored: dict[str, tuple[Path, Tensor]]) -> None:
    model, adapter = build("llama"), method()
    for name, (folder, _) in stored.items():
        adapter.load(model, folder, (), name)
    folders = [folder for folder, _ in stored.values()]

    def stacked(h: Tensor, own: list[dict[str, Tensor]], _: str) -> Tensor:
        h = h + part(h, own[0], "a")
        return h + part(h, own[1], "b")

    adapter.stack(model, ["a", "b"])
    first = logits(model)
    torch.testing.assert_close(first, by_hand(folders, stacked), rtol=1e-4, atol=1e-4)
    adapter.stack(model, ["b", "a"])
    assert not torch.allclose(logits(model), first, atol=1e-3), "the order counts"

    for shares, wa, wb in ((None, 0.5, 0.5), ([3.0, 1.0], 0.75, 0.25)):

        def mean(h: Tensor, own: list[dict[str, Tensor]], _: str, wa: float = wa, wb: float = wb) -> Tensor:
            return h + wa * part(h, own[0], "a") + wb * part(h, own[1], "b")

        adapter.average(model, ["a", "b"], shares)
        torch.testing.assert_close(logits(model), by_hand(folders, mean), rtol=1e-4, atol=1e-4)
    adapter.average(model, ["a", "b"], [1.0, 0.0])
    torch.testing.assert_close(logits(model), stored["a"][1], rtol=1e-5, atol=1e-5)
    adapter.activate(model, "b")
    assert torch.equal(logits(model), stored["b"][1])


def test_a_stack_of_parallel_ones_is_their_sum() -> None:
    model, adapter = attached("llama", placement="parallel", layers=[1])
    teach(model, 1)
    adapter.add(model, (), "other")
    teach(model, 2)
    layer = model.model.layers[1]

    def fed() -> Tensor:
        return watch([layer.mlp], lambda: logits(model))[0][1]

    outputs = {}
    for name in (None, "default", "other"):
        adapter.activate(model, name)
        outputs[name] = fed()
    adapter.stack(model, ["default", "other"])
    expected = outputs["default"] + outputs["other"] - outputs[None]
    torch.testing.assert_close(fed(), expected, rtol=1e-4, atol=1e-4)


def test_wrong_names_and_weights(stored: dict[str, tuple[Path, Tensor]], tmp_path: Path) -> None:
    model, adapter = build("llama"), method()
    with pytest.raises(ModelError, match="no adapter 'a'"):
        adapter.activate(model, "a")
    adapter.activate(model, None)
    for name, (folder, _) in stored.items():
        adapter.load(model, folder, (), name)
    for call in (
        lambda: adapter.activate(model, "aa"),
        lambda: adapter.delete(model, "c"),
        lambda: adapter.stack(model, ["a", "c"]),
        lambda: adapter.stack(model, []),
        lambda: adapter.average(model, []),
        lambda: adapter.average(model, ["a", "b"], [1.0]),
        lambda: adapter.average(model, ["a", "b"], [1.0, -1.0]),
        lambda: adapter.load(model, stored["a"][0], (), "a"),
        lambda: adapter.load(model, stored["a"][0], (), ""),
        lambda: adapter.add(model, (), "b"),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert caught.value.hint
    assert torch.equal(logits(model), stored["a"][1]), "none of these changed anything"
    adapter.stack(model, ["a", "b"])
    with pytest.raises(ModelError, match="2 adapters are active"):
        adapter.save(model, tmp_path)


def test_copies_are_independent() -> None:
    model, adapter = attached("llama", placement="parallel")
    teach(model)
    tuned, copied = logits(model), copy.deepcopy(model)
    adapter.activate(model, None)
    assert torch.equal(logits(copied), tuned)
    assert torch.equal(logits(model), logits(build("llama")))


# ------------------------------------------------------------------------------------------------ heads


def classifier(labels: int = 2, seed: int = 0) -> PooledClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = tf.BertModel(tf.BertConfig(**ENCODER))
        torch.manual_seed(100 + seed)
        return PooledClassifier(backbone, labels, "mean", 0.0).eval()


def scores(model: Any) -> Tensor:
    ids = inputs(model)["input_ids"]
    return logits(model, input_ids=ids, attention_mask=torch.ones_like(ids))


def taught(folder: Path, seed: int, labels: int = 2) -> Tensor:
    """A classifier on the same backbone with a head of its own, in ``folder`` → logits."""
    model, adapter = classifier(labels), method(reduction=8)
    adapter.attach(model, ("classifier",))
    assert {"classifier.weight", "classifier.bias"} <= weights.trainable(model).keys()
    teach(model, seed)
    folder.mkdir()
    adapter.save(model, folder)
    return scores(model)


def test_the_head_belongs_to_the_adapter(tmp_path: Path) -> None:
    """With another number of labels, too."""
    expected = {name: taught(tmp_path / name, i, 2 + i // 2) for i, name in enumerate("abc")}
    model, adapter = classifier(), method()
    bare = scores(model)
    for name in expected:
        adapter.load(model, tmp_path / name, ("classifier",), name)
    for name in ("c", None, "a", "b", None, "c", "a"):
        adapter.activate(model, name)
        assert torch.equal(scores(model), expected[name] if name else bare)
    adapter.average(model, ["a", "b"])
    heads = [weights.read(tmp_path / name / bottleneck.WEIGHTS)["classifier.weight"] for name in "ab"]
    torch.testing.assert_close(model.classifier.weight.data, (heads[0] + heads[1]) / 2)
    adapter.stack(model, ["a", "b"])
    assert torch.equal(model.classifier.weight, heads[1]), "the head of the last"
    with pytest.raises(ModelError, match="different labels"):
        adapter.average(model, ["a", "c"])
    adapter.delete(model, "b")
    assert torch.equal(scores(model), bare)
    adapter.activate(model, "a")
    assert torch.equal(scores(model), expected["a"])


def test_a_head_in_training_survives_switching() -> None:
    model, adapter = classifier(), method(reduction=8)
    adapter.attach(model, ("classifier",))
    optimizer = torch.optim.SGD(weights.trainable(model).values(), lr=0.5)
    seen = []
    for _ in range(3):
        ids = inputs(model)["input_ids"]
        F.cross_entropy(model(ids, torch.ones_like(ids)), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(scores(model))
        adapter.activate(model, None)
        assert torch.equal(scores(model), scores(classifier()))
        adapter.activate(model, "default")
        assert torch.equal(scores(model), seen[-1])
    assert not torch.equal(seen[0], seen[2])


def test_a_head_follows_the_model_to_another_dtype() -> None:
    model, adapter = classifier(), method(reduction=8)
    adapter.attach(model, ("classifier",))
    teach(model)
    model.double()
    tuned = scores(model)
    adapter.activate(model, None)
    torch.testing.assert_close(scores(model), scores(classifier()).double(), rtol=1e-5, atol=1e-5)
    adapter.activate(model, "default")
    assert torch.equal(scores(model), tuned)
    weights.trainable(model)["classifier.bias"].data += 1
    adapter.activate(model, None)
    adapter.activate(model, "default")
    assert torch.equal(scores(model), tuned + 1)


# ------------------------------------------------------------------------------------------------- files


def test_files(stored: dict[str, tuple[Path, Tensor]]) -> None:
    folder = stored["b"][0]
    assert json.loads((folder / bottleneck.SETTINGS).read_text()) == {
        "schema_version": 1, "placement": "pfeiffer", "reduction": 4, "activation": "relu", "scale": 1.0,
        "dropout": 0.0, "layers": None,
    }  # fmt: skip
    tensors = weights.read(folder / bottleneck.WEIGHTS)
    assert sum(t.numel() for t in tensors.values()) == 3 * (2 * 32 * 8 + 8 + 32)
    assert sorted(tensors)[0] == "model.layers.0.adapters.feed_forward.down.bias"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def changed(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        settings = path.with_name(bottleneck.SETTINGS)
        settings.write_text(json.dumps({**json.loads(settings.read_text()), **values}))

    return change


def fewer(path: Path) -> None:
    tensors = weights.read(path.with_name(bottleneck.WEIGHTS))
    tensors.pop(sorted(tensors)[0])
    weights.save(tensors, path.with_name(bottleneck.WEIGHTS))


@pytest.mark.parametrize("file", [bottleneck.WEIGHTS, bottleneck.SETTINGS])
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink, cut, fewer, lambda path: path.write_text("[]"), changed(reduction=2), changed(reduction=0),
        changed(placement="houlsby"), changed(activation="__import__"), changed(schema_version=2), changed(layers=[0]),
        changed(scale="learned"), changed(more=1),
    ],
)  # fmt: skip
def test_damage_is_refused(file: str, damage: Any, stored: dict[str, tuple[Path, Tensor]]) -> None:
    folder = stored["b"][0]
    damage(folder / file)
    model = build("llama")
    free = weights.trainable(model).keys()
    with pytest.raises(ModelError) as caught:
        method().load(model, folder, (), "b")
    assert caught.value.hint
    assert str(folder) in caught.value.where
    assert torch.equal(logits(model), logits(build("llama")))
    assert weights.trainable(model).keys() == free


def test_another_base_or_head_is_refused(stored: dict[str, tuple[Path, Tensor]], tmp_path: Path) -> None:
    taught(tmp_path / "head", 0)
    with pytest.raises(ModelError, match="other weights"):
        method().load(build("mistral").model, stored["a"][0], (), "a")
    with pytest.raises(ModelError, match="other weights"):
        method().load(classifier(), tmp_path / "head", (), "a")
    with pytest.raises(ModelError, match="other weights"):
        method().load(build("llama"), stored["a"][0], ("lm_head",), "a")


# -------------------------------------------------------------------------------------------- in company


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "gpt2", "llama", "gemma3", "t5", "bart"])
def test_gradient_checkpointing_changes_nothing(name: str, placement: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, _ = attached(name, placement=placement)
        teach(model)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        out = model(**inputs(model), **({"use_cache": False} if model.can_generate() else {}))
        out.logits.float().log_softmax(-1)[..., 5].sum().backward()
        gradients.append({key: p.grad for key, p in weights.trainable(model).items()})
    for key, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5"])
def test_a_batch_is_its_rows(name: str, placement: str) -> None:
    model, _ = attached(name, placement=placement)
    teach(model)
    given = inputs(model, rows=3)
    mask = torch.ones_like(given["input_ids"])
    mask[1, 4:] = 0
    together = logits(model, **given, attention_mask=mask)
    for row, length in enumerate((7, 4, 7)):
        one = {"input_ids": given["input_ids"][row : row + 1, :length]}
        one |= {key: ids[row : row + 1] for key, ids in given.items() if key != "input_ids"}
        alone = logits(model, **one)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
@pytest.mark.parametrize("name", GENERATING)
def test_generation_with_a_cache(name: str, placement: str) -> None:
    model, _ = attached(name, placement=placement)
    teach(model)
    ids = inputs(model)["input_ids"]
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    texts = [model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=c, **settings) for c in (True, False)]
    assert torch.equal(texts[0], texts[1])
    bottleneck.activate(model, None)
    assert torch.equal(
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings),
        build(name).generate(ids, attention_mask=torch.ones_like(ids), **settings),
    )


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from tiny import base_of

    def fresh() -> Any:
        model, _ = base_of(tiny_llama, quantise=kind, dtype="bfloat16").load("causal_lm")
        return model.eval()

    model, adapter = fresh(), method(placement="parallel")
    bare = logits(model)
    adapter.attach(model, ())
    assert torch.equal(logits(model), bare)
    assert {p.dtype for p in weights.trainable(model).values()} == {torch.bfloat16}
    teach(model)
    model(**inputs(model)).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights.trainable(model).values())
    adapter.save(model, tmp_path)
    again = fresh()
    adapter.load(again, tmp_path, ())
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), bare)


def test_it_cannot_be_merged() -> None:
    model, adapter = attached("llama")
    teach(model)
    before = logits(model)
    assert "method=lora" in str(adapter.merge(model))
    assert torch.equal(logits(model), before)
