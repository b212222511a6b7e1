"""The halves of a decoder layer under LoRA as one autograd function each: what feeds attention, and the gated MLP.

Autograd runs q, k, v (and gate, up) one by one: a narrow product each where one would do for all, gradients of the
input added in passes of their own, ten small tensors for the rotary embedding (Su et al. 2021, arXiv:2104.09864) and
its backward pass, four tensors kept of the MLP's wide ones where two are enough. Values are those of the stock layers
up to rounding. Without gradients, and where anything is unusual, the stock layers run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunery.models.fast_lora import plain_adapter

ATTENTION = ("LlamaAttention", "MistralAttention", "Qwen2Attention")
"""Projections with or without bias, rotary embedding over the whole head, nothing in between."""
MLP = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""down(silu(gate(x)) * up(x))."""


class _Site(NamedTuple):
    """A linear layer [in → out] with its adapter: weight [out, in] and bias frozen, a [r, in], b [out, r]."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor


def _project(x: Tensor, sites: Sequence[_Site], scales: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """Input [tokens, in] → outputs [tokens, out] of the sites, and scaled narrow products [tokens, sum of ranks]."""
    narrow = x @ torch.cat([site.a for site in sites]).t()
    outs = []
    for site, part, scale in zip(sites, _parts(narrow, sites), scales, strict=True):
        outs.append(F.linear(x, site.weight, site.bias).addmm_(part.mul_(scale), site.b.t()))
    return outs, narrow


def _project_back(
    x: Tensor, narrow: Tensor, grads: Sequence[Tensor], sites: Sequence[_Site], scales: Sequence[float], wanted: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of x (if wanted), and of each site's tensors in their order; ``narrow`` as ``_project`` gave it."""
    inner = torch.cat([(grad @ site.b).mul_(s) for grad, site, s in zip(grads, sites, scales, strict=True)], 1)
    grads_a = torch.split(inner.t() @ x, [len(site.a) for site in sites])
    found: list[Tensor | None] = []
    for grad, part, grad_a in zip(grads, _parts(narrow, sites), grads_a, strict=True):
        found += [None, None, grad_a, grad.t() @ part]
    if not wanted:
        return None, found
    grad_x = inner @ torch.cat([site.a for site in sites])
    for grad, site in zip(grads, sites, strict=True):
        grad_x.addmm_(grad, site.weight)
    return grad_x, found


def _parts(narrow: Tensor, sites: Sequence[_Site]) -> tuple[Tensor, ...]:
    return torch.split(narrow, [len(site.a) for site in sites], 1)


def _sites(tensors: Sequence[Any]) -> list[_Site]:
    return [_Site(*tensors[i : i + 4]) for i in range(0, len(tensors), 4)]


class _Mlp(torch.autograd.Function):
    """x [tokens, hidden] → [tokens, hidden]; sites: gate, up, down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: Sequence[float], *tensors: Tensor) -> Tensor:
        sites = _sites(tensors)
        (gate, up), narrow = _project(x, sites[:2], scales[:2])
        (out,), narrow_down = _project(F.silu(gate).mul_(up), sites[2:], scales[2:])
        ctx.save_for_backward(x, gate, up, narrow, narrow_down, *tensors)
        ctx.scales = scales
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, narrow, narrow_down, *tensors = ctx.saved_tensors
        sites, scales = _sites(tensors), ctx.scales
        opened = F.silu(gate)
        inner, found_down = _project_back(opened * up, narrow_down, [grad], sites[2:], scales[2:], True)
        assert inner is not None
        grad_up = opened.mul_(inner)
        grad_gate = torch.ops.aten.silu_backward(inner.mul_(up), gate)
        grads = (grad_gate, grad_up)
        grad_x, found = _project_back(x, narrow, grads, sites[:2], scales[:2], ctx.needs_input_grad[0])
        return grad_x, None, *found, *found_down


class _Heads(torch.autograd.Function):
    """x [rows, length, hidden], cos and sin [rows or 1, length, size] → queries, keys (both turned), values, each
    [rows, heads or groups, length, size]; sites: q, k, v.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, scales: Sequence[float], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        sites = _sites(tensors)
        flat = x.reshape(-1, x.shape[-1])
        outs, narrow = _project(flat, sites, scales)
        query, key, value = (out.view(*x.shape[:2], -1, cos.shape[-1]).transpose(1, 2) for out in outs)
        ctx.save_for_backward(flat, cos, sin, narrow, *tensors)
        ctx.scales = scales
        return _turn(query, cos, sin), _turn(key, cos, sin), value.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, cos, sin, narrow, *tensors = ctx.saved_tensors
        query, key, value = (grad.transpose(1, 2) for grad in grads)
        turned = [_turn(query, cos, sin, back=True, dim=2), _turn(key, cos, sin, back=True, dim=2), value]
        by_token = [grad.reshape(len(flat), -1) for grad in turned]
        grad_x, found = _project_back(flat, narrow, by_token, _sites(tensors), ctx.scales, ctx.needs_input_grad[0])
        whole = None if grad_x is None else grad_x.view(*value.shape[:2], -1)
        return whole, None, None, None, *found


def _turn(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False, dim: int = 1) -> Tensor:
    """The rotary embedding, or its transpose, into a contiguous tensor; ``dim`` is that of the heads in x."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    half = x.shape[-1] // 2
    torch.mul(x, cos.unsqueeze(dim), out=out)
    first, second = (sin.unsqueeze(dim)[..., part] for part in (slice(half), slice(half, None)))
    if back:
        first, second = second, first
    out[..., :half].addcmul_(x[..., half:], first, value=1 if back else -1)
    out[..., half:].addcmul_(x[..., :half], second, value=-1 if back else 1)
    return out


def install(model: nn.Module) -> None:
    """Use them in every known attention and MLP module of a model that peft has changed."""
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if type(module).__name__ in ATTENTION:
            module.forward = _attention(module)
        elif type(module).__name__ in MLP and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation"):
            module.forward = _mlp(module)


def _adapters(layers: Sequence[Any], x: Tensor) -> tuple[tuple[float, ...], list[Tensor | None]] | None:
    """Scales and tensors of linear layers that all carry one plain adapter and learn now; None: one does not."""
    scales, tensors = [], []
    if not torch.is_grad_enabled():
        return None
    for layer in layers:
        name = plain_adapter(layer, x)
        if name is None or layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
            return None
        scales.append(float(layer.scaling[name]))
        base = layer.base_layer
        tensors += [base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight]
    return tuple(scales), tensors


def _mlp(module: Any) -> Any:
    slow = module.forward

    def forward(x: Tensor) -> Tensor:
        found = _adapters((module.gate_proj, module.up_proj, module.down_proj), x)
        if found is None:
            return slow(x)  # type: ignore[no-any-return]
        out: Tensor = _Mlp.apply(x.reshape(-1, x.shape[-1]), found[0], *found[1])  # type: ignore[no-untyped-call]
        return out.view(x.shape)

    return forward


def _attention(module: Any) -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    slow = module.forward
    eager = sys.modules[type(module).__module__].eager_attention_forward
    window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **settings: Any,
    ) -> Any:
        found = None
        if position_embeddings is not None and past_key_values is None:
            found = _adapters((module.q_proj, module.k_proj, module.v_proj), hidden_states)
        if found is None or position_embeddings is None or position_embeddings[0].shape[-1] != module.head_dim:
            return slow(hidden_states, position_embeddings, attention_mask, past_key_values, **settings)
        heads = _Heads.apply(hidden_states, *position_embeddings, found[0], *found[1])  # type: ignore[no-untyped-call]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager)
        dropout = module.attention_dropout if module.training else 0.0
        settings["sliding_window"] = window
        out, shares = attend(module, *heads, attention_mask, dropout=dropout, scaling=module.scaling, **settings)
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), shares

    return forward
