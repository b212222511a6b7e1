"""Heads: logits only where they are needed, and pooling that padding does not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM

from small import one_thread  # noqa: F401
from tunery.data.batch import collate
from tunery.models.heads import PooledClassifier, next_token_loss, pool, row_logits, selected_logits
from tunery.protocols import IGNORE, Encoded

DECODERS = ["tiny_llama", "tiny_gpt2"]
BACKBONES = ["tiny_bert", "tiny_roberta", "tiny_llama", "tiny_gpt2"]


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def batch_of(*lengths: int, pad_id: int = 1) -> dict[str, torch.Tensor]:
    """Rows of random ids, each with the second half supervised."""
    random = torch.Generator().manual_seed(4)
    rows = []
    for length in lengths:
        ids = torch.randint(5, 300, (length,), generator=random).tolist()
        rows.append(Encoded(ids, [IGNORE] * (length // 2) + ids[length // 2 :]))
    return collate(rows, pad_id)


@pytest.mark.parametrize("folder", DECODERS, indirect=True)
def test_logits_of_chosen_positions_equal_all_logits_there(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = batch_of(9, 4, 14)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    keep = (torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(1)) < 0.4) & (
        batch["attention_mask"] == 1
    )
    found = selected_logits(model, keep, **inputs)
    assert found.shape == (int(keep.sum()), model.config.vocab_size)
    torch.testing.assert_close(found, model(**inputs).logits[keep])


@pytest.mark.parametrize("folder", DECODERS, indirect=True)
def test_loss_and_gradients_equal_the_full_computation(folder: Path) -> None:
    batch = batch_of(9, 4, 14)
    mine = AutoModelForCausalLM.from_pretrained(folder).train()
    plain = AutoModelForCausalLM.from_pretrained(folder).train()
    for module in [*mine.modules(), *plain.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    total, count = next_token_loss(mine, batch)
    total.backward()
    logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    shifted = batch["labels"][:, 1:]
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), shifted.flatten(), ignore_index=IGNORE, reduction="sum")
    expected.backward()
    assert int(count) == int((shifted != IGNORE).sum()) == 5 + 2 + 7
    torch.testing.assert_close(total, expected)
    for (name, one), other in zip(mine.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
    assert not mine.get_output_embeddings()._forward_pre_hooks, "the hook is taken away"


@pytest.mark.parametrize("folder", DECODERS, indirect=True)
def test_a_batch_without_targets_has_no_loss_and_no_gradient(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    batch = batch_of(6, 3)
    batch["labels"].fill_(IGNORE)
    total, count = next_token_loss(model, batch)
    total.backward()
    assert (total.item(), int(count)) == (0.0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_hook_goes_even_if_the_model_fails(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    with pytest.raises((IndexError, RuntimeError)):
        selected_logits(model, torch.ones((1, 1), dtype=torch.bool), input_ids=torch.tensor([[10**6]]))
    assert not model.get_output_embeddings()._forward_pre_hooks


# ------------------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_leaves_padding_out(side: str) -> None:
    vectors = torch.tensor([[1.0, -5.0], [3.0, -1.0], [2.0, -9.0]])
    rubbish = torch.full((2, 2), 99.0)
    parts = (rubbish, vectors) if side == "left" else (vectors, rubbish)
    mask = torch.tensor([[0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0]])
    hidden = torch.cat(parts).unsqueeze(0)
    expected = {"mean": [2.0, -5.0], "max": [3.0, -1.0], "cls": [1.0, -5.0], "last": [2.0, -9.0]}
    for how, value in expected.items():
        assert pool(hidden, mask, how)[0].tolist() == value, how  # type: ignore[arg-type]


def test_pooling_works_row_by_row() -> None:
    hidden = torch.randn((3, 6, 4), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    for how in ("mean", "max", "cls", "last"):
        whole = pool(hidden, mask, how)  # type: ignore[arg-type]
        for row in range(3):
            real = hidden[row : row + 1, mask[row] == 1]
            alone = pool(real, torch.ones(real.shape[:2], dtype=torch.long), how)  # type: ignore[arg-type]
            torch.testing.assert_close(whole[row], alone[0], msg=f"{how} {row}")


@pytest.mark.parametrize("how", ["mean", "max", "cls", "last"])
@pytest.mark.parametrize("folder", BACKBONES, indirect=True)
def test_a_padded_batch_scores_as_one_row_at_a_time(folder: Path, how: Any) -> None:
    torch.manual_seed(0)
    model = PooledClassifier(AutoModel.from_pretrained(folder), 3, how, 0.1).eval()
    rows = [Encoded(list(range(n, 2 * n))) for n in (3, 17, 8, 5)]
    with torch.no_grad():
        together = row_logits(model, collate(rows, 1))
        alone = torch.cat([row_logits(model, collate([row], 1)) for row in rows])
    assert together.shape == (4, 3)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)
