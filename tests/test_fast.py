"""The fast paths give what the slow ones give: LoRA beside peft's own layer, RMSNorm beside the stock one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tiny import base_of
from tunery.models import cpu_attention, fast_block, fast_lora, fast_norm
from tunery.models.heads import token_loss


def adapted(folder: Path, **changes: object) -> nn.Module:
    """A tiny llama with LoRA whose B is not zero, the same for the same arguments."""
    torch.manual_seed(0)
    model, _ = base_of(folder).load("causal_lm")
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", **changes))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return wrapped


def gradients(model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_lora_equals_peft(tiny_llama: Path) -> None:
    slow, fast = adapted(tiny_llama), adapted(tiny_llama)
    fast_lora.install(fast)
    used = [m for m in fast.modules() if "forward" in vars(m)]
    assert len(used) == sum("lora_A" in n for n, _ in fast.named_parameters()), "every layer takes the fast path"
    ids = torch.randint(0, 100, (3, 11))
    (expected, expected_grads), (found, found_grads) = gradients(slow, ids), gradients(fast, ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found_grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        torch.testing.assert_close(found_grads[name], grad, rtol=1e-4, atol=1e-7)


SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64}


@pytest.mark.parametrize("architecture", ["llama", "qwen2 with biases", "mistral with a window"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "tunery_cpu"])
def test_blocks_equal_peft(architecture: str, attention: str, tiny_llama: Path) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        if architecture == "llama":
            model, _ = base_of(tiny_llama).load("causal_lm")
        elif architecture == "mistral with a window":
            model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
        cpu_attention.register()
        model.set_attn_implementation(attention)
        wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear"))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "bias" in name:
                nn.init.normal_(parameter, std=0.1)
        models.append(wrapped)
    slow, fast = models
    fast_block.install(fast)
    layers = len(fast.get_base_model().model.layers)
    assert len([m for m in fast.modules() if "forward" in vars(m)]) == 2 * layers
    ids = torch.randint(0, 100, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    logits = [model(input_ids=ids, attention_mask=mask).logits[mask.bool()] for model in models]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-6)
    for found in logits:
        found.square().mean().backward()
    expected = {name: p.grad for name, p in slow.named_parameters() if p.grad is not None}
    assert expected.keys() == {name for name, p in fast.named_parameters() if p.grad is not None}
    for name, grad in expected.items():
        torch.testing.assert_close(fast.get_parameter(name).grad, grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(slow(input_ids=ids).logits, fast(input_ids=ids).logits), "the stock layers run"


@pytest.mark.parametrize("unusual", ["q_proj alone", "an adapter switched off", "a hook", "merged"])
def test_blocks_leave_what_is_unusual_to_peft(unusual: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_block, "_project", None)  # the fast path would break
    torch.manual_seed(0)
    model, _ = base_of(tiny_llama).load("causal_lm")
    targets = ["q_proj"] if unusual == "q_proj alone" else "all-linear"
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    fast_block.install(model)
    if unusual == "an adapter switched off":
        model.base_model.disable_adapter_layers()
    if unusual == "merged":
        model.base_model.merge_adapter()
    if unusual == "a hook":
        for name, module in model.named_modules():
            if name.endswith(("q_proj", "gate_proj")):
                module.register_forward_hook(lambda *_: None)
    assert model(input_ids=torch.randint(0, 100, (2, 7))).logits.isfinite().all()


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_other_variants_are_left_to_peft(tiny_llama: Path, changes: dict[str, object]) -> None:
    slow, fast = adapted(tiny_llama, **changes), adapted(tiny_llama, **changes)
    fast_lora.install(fast)
    fast_block.install(fast)
    ids = torch.randint(0, 100, (2, 7))
    for model in (slow, fast):
        model.train()
        torch.manual_seed(3)
        model.found = model(input_ids=ids).logits
    assert torch.equal(slow.found, fast.found)


def test_a_disabled_adapter_is_the_base(tiny_llama: Path) -> None:
    plain, _ = base_of(tiny_llama).load("causal_lm")
    fast = adapted(tiny_llama)
    fast_lora.install(fast)
    ids = torch.randint(0, 100, (2, 7))
    with torch.no_grad(), fast.disable_adapter():
        assert torch.equal(fast(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_the_stock_one(dtype: torch.dtype) -> None:
    slow, fast = (LlamaRMSNorm(48, 1e-5).to(dtype).requires_grad_(False) for _ in range(2))
    weight = torch.rand(48) + 0.5
    for layer in (slow, fast):
        layer.weight.copy_(weight)
    fast_norm.install(fast)
    assert "forward" in vars(fast)
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(x) for layer, x in zip((slow, fast), inputs, strict=True)]
    assert torch.equal(*outputs), "the forward pass is the same to the bit"
    for out in outputs:
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out).to(dtype))
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-3}
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **close)


def test_a_trained_norm_is_left_alone() -> None:
    layer = LlamaRMSNorm(8)
    fast_norm.install(layer)
    layer(torch.randn(2, 8)).sum().backward()
    assert layer.weight.grad is not None


def test_cross_entropy_equals_torch() -> None:
    logits = torch.randn(600, 37, requires_grad=True)
    targets = torch.randint(0, 37, (600,))
    copy = logits.detach().clone().requires_grad_()
    total, count = token_loss(copy, targets)
    expected = nn.functional.cross_entropy(logits, targets, reduction="sum")
    total.backward()
    expected.backward()
    assert count == 600
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(copy.grad, logits.grad)
