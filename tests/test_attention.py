"""The CPU kernel against attention written out, and where it is used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import base_of
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tunery.models import cpu_attention
from tunery.models.attention import EAGER_UP_TO, choose_attention, reset_attention


def written_out(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def tensors(groups: int, length: int, front: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(length)
    shapes = [(2, 6, length, 8), (2, groups, length + front, 8), (2, groups, length + front, 8)]
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("block", [1, 600, 1 << 20], ids=["small blocks", "some blocks", "one block"])
@pytest.mark.parametrize(("groups", "length", "front"), [(6, 33, 0), (2, 50, 0), (2, 17, 4)])
@pytest.mark.parametrize("kind", ["causal", "padded", "both ways"])
def test_values_and_gradients(
    kind: str, groups: int, length: int, front: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "causal" and front:
        pytest.skip("without a mask there is no prefix")
    monkeypatch.setattr(cpu_attention, "BLOCK", block)
    visible = torch.ones(2, 1, length, length + front, dtype=torch.bool)
    if kind != "both ways":
        visible = visible.tril(front)
    mask = None if kind == "causal" else visible
    if kind != "causal":
        visible[0, ..., front + length // 2 :] = False
    module: Any = SimpleNamespace(is_causal=kind != "both ways", num_key_value_groups=6 // groups, training=True)
    ours, theirs = tensors(groups, length, front), tensors(groups, length, front)
    found, _ = cpu_attention.attend(module, *ours, mask, scaling=0.3)
    expected = written_out(*theirs, visible, 0.3)
    torch.testing.assert_close(found, expected)
    weight = torch.linspace(-1, 1, found.numel()).view_as(found)
    for a, b in zip(
        torch.autograd.grad(found, ours, weight), torch.autograd.grad(expected, theirs, weight), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_without_gradients_it_is_sdpa() -> None:
    module: Any = SimpleNamespace(is_causal=True, num_key_value_groups=3, training=False)
    with torch.no_grad():
        inputs = tensors(2, 20, 0)
        ours = cpu_attention.attend(module, *inputs, None)[0]
        theirs = sdpa_attention_forward(module, *inputs, None)[0]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert"])
def test_the_kernel_follows_the_length(model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{model}")
    net, _ = base_of(folder).load("backbone")
    cpu = torch.device("cpu")
    choose_attention(net, (2, EAGER_UP_TO), cpu)
    assert net.config._attn_implementation == "eager"
    choose_attention(net, (2, EAGER_UP_TO + 1), cpu)
    assert net.config._attn_implementation == cpu_attention.NAME
    assert all(
        module.config._attn_implementation == cpu_attention.NAME
        for module in net.modules()
        if hasattr(module, "config")
    )
    reset_attention(net)
    assert net.config._attn_implementation == "sdpa", "evaluation does not depend on the batch before it"


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert", "roberta"])
def test_a_model_computes_the_same_with_it(model: str, request: pytest.FixtureRequest) -> None:
    net, _ = base_of(request.getfixturevalue(f"tiny_{model}")).load("backbone")
    ids = torch.randint(5, 100, (3, 60), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 40:] = 0
    found = []
    for name in ("eager", cpu_attention.NAME):
        cpu_attention.register()
        for module in net.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = name
        net.zero_grad()
        hidden = net(input_ids=ids, attention_mask=mask).last_hidden_state[mask == 1]
        hidden.square().sum().backward()
        found.append((hidden, {n: p.grad for n, p in net.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-3)
