"""Rows end to end in one sequence: what is computed for each is what it would be on its own."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

import small
from small import one_thread  # noqa: F401
from tunery import config as configuration
from tunery.data.batch import WHOLE, collate, join, joined_batches
from tunery.models import joined
from tunery.models.attention import choose_attention, reset_attention
from tunery.models.heads import next_token_loss
from tunery.protocols import IGNORE, Encoded
from tunery.run.prepare import prepare
from verbs import call

CPU = torch.device("cpu")
ENDS = [0, 5, 6, 23, 40]


def rows(count: int = 5, seed: int = 0) -> list[Encoded]:
    pick = random.Random(seed)
    found = []
    for length in pick.sample(range(1, 150), count):
        ids = [pick.randrange(5, 90) for _ in range(length)]
        found.append(Encoded(ids=ids, labels=[i if pick.random() < 0.7 else IGNORE for i in ids]))
    return found


def written_out(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    row = torch.tensor([sum(i >= end for end in ENDS) for i in range(ENDS[-1])])
    visible = (row[:, None] == row[None, :]).tril()
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("groups", [6, 2])
def test_values_and_gradients(groups: int) -> None:
    random_numbers = torch.Generator().manual_seed(1)
    shapes = [(1, 6, ENDS[-1], 8), (1, groups, ENDS[-1], 8), (1, groups, ENDS[-1], 8)]
    ours = [torch.randn(shape, generator=random_numbers).requires_grad_() for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    module: Any = SimpleNamespace(is_causal=True)
    found, _ = joined.attend(module, *ours, None, scaling=0.3, cu_seq_lens_q=torch.tensor(ENDS))
    expected = written_out(*theirs, 0.3)
    torch.testing.assert_close(found, expected)
    weight = torch.linspace(-1, 1, found.numel()).view_as(found)
    for a, b in zip(
        torch.autograd.grad(found, ours, weight), torch.autograd.grad(expected, theirs, weight), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_mask_or_no_ends_is_refused() -> None:
    query = torch.randn(1, 2, 4, 8)
    module: Any = SimpleNamespace()
    with pytest.raises(ValueError, match="end to end"):
        joined.attend(module, query, query, query, None)
    with pytest.raises(ValueError, match="end to end"):
        joined.attend(module, query, query, query, torch.ones(1, 1, 4, 4), cu_seq_lens_q=torch.tensor([0, 4]))


def test_a_batch_of_rows_end_to_end() -> None:
    short = [Encoded(ids=[7, 8, 9], labels=[7, 8, 9]), Encoded(ids=[5, 6], labels=[IGNORE, 6])]
    batch = join(short, pad_id=0)
    assert batch["input_ids"].shape == (1, WHOLE) and batch["input_ids"][0, :6].tolist() == [7, 8, 9, 5, 6, 0]
    assert batch["position_ids"][0, :7].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert batch["ends"].tolist() == [0, 3, 5, WHOLE]
    assert int(batch["attention_mask"].sum()) == 5
    # nothing predicts the first token of a row: what stands before it is another row's
    assert batch["labels"][0, :6].tolist() == [IGNORE, 8, 9, IGNORE, 6, IGNORE]
    assert join([Encoded(ids=[1] * WHOLE, labels=[1] * WHOLE)], 0)["ends"].tolist() == [0, WHOLE]


def test_forward_passes_keep_to_their_limits() -> None:
    sizes = [random.Random(i).randint(1, 60) for i in range(50)]
    for most_rows, most_tokens in ((1, 1000), (4, 1000), (8, 100), (100, 64), (3, 1)):
        order = random.Random(0).sample(range(50), 20)
        cuts = joined_batches(order, sizes, most_rows, most_tokens)
        assert [row for cut in cuts for row in cut] == order
        for cut in cuts:
            assert 1 <= len(cut) <= most_rows
            assert sum(sizes[row] for row in cut) <= most_tokens or len(cut) == 1
    assert joined_batches([], sizes, 8, 100) == []


def tiny(kind: str, request: pytest.FixtureRequest) -> Any:
    if kind == "mistral":
        torch.manual_seed(0)
        return MistralForCausalLM(
            MistralConfig(
                vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, sliding_window=None,
            )
        )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(request.getfixturevalue(f"tiny_{kind}"), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["llama", "qwen", "mistral"])
def test_loss_and_gradients_are_those_of_padded_rows(kind: str, request: pytest.FixtureRequest) -> None:
    model = tiny(kind, request).train()
    assert joined.fits(model.config, CPU)

    def found(batch: dict[str, Tensor], end_to_end: bool) -> tuple[float, int, list[Tensor]]:
        model.zero_grad()
        choose_attention(model, batch["input_ids"].shape, CPU, end_to_end)
        loss, count = next_token_loss(model, batch)
        loss.backward()
        return float(loss), int(count), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    padded, together = found(collate(rows(), 0), False), found(join(rows(), 0), True)
    assert together[0] == pytest.approx(padded[0], rel=1e-6) and together[1] == padded[1]
    for a, b in zip(together[2], padded[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    reset_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_no_row_sees_another(request: pytest.FixtureRequest) -> None:
    model = tiny("llama", request).eval()
    first, second = rows(2)

    def logits(others: Encoded) -> Tensor:
        batch = join([others, second], 0)
        choose_attention(model, batch["input_ids"].shape, CPU, True)
        given = {"position_ids": batch["position_ids"], "cu_seq_lens_q": batch["ends"]}
        found: Tensor = model(input_ids=batch["input_ids"], **given, use_cache=False).logits
        return found[0, len(others.ids) : len(others.ids) + len(second.ids)]

    with torch.no_grad():
        changed = Encoded(ids=[i + 1 for i in first.ids], labels=first.labels)
        assert torch.equal(logits(first), logits(changed))


@pytest.mark.parametrize(("model", "settings", "expected"), [
    ("llama", {}, True),
    ("llama", {"method": "full"}, True),
    ("llama", {"task": "lm"}, True),
    ("llama", {"method": "prefix"}, False),
    ("llama", {"method": "prompt"}, False),
    ("llama", {"task": "classify"}, False),
    ("llama", {"train__join_rows": False}, False),
    ("llama", {"train__dropout": 0.1}, False),
    ("gpt2", {}, False),
])  # fmt: skip
def test_where_rows_are_joined(
    model: str, settings: dict[str, Any], expected: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: Path = request.getfixturevalue(f"tiny_{model}")
    task = settings.get("task", "instruct")
    data = small.write(tmp_path / "rows.jsonl", small.ROWS[task](12))
    values = {"data.train": str(data), "model": str(base), "run.dir": str(tmp_path), "task": task, "method": "lora"}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    assert prepare(configuration.build(configuration.put({}, values))).joined is expected


def test_a_window_or_dropout_in_attention_does_not_fit() -> None:
    def of(**keys: Any) -> Any:
        return SimpleNamespace(**{"model_type": "mistral", "attention_dropout": 0.0, "sliding_window": None, **keys})

    assert joined.fits(of(), CPU)
    assert not joined.fits(of(sliding_window=8), CPU)
    assert joined.fits(of(model_type="qwen2", sliding_window=8, use_sliding_window=False), CPU)
    assert not joined.fits(of(attention_dropout=0.1), CPU)
    assert not joined.fits(of(), torch.device("meta"))


def test_a_run_learns_alike_padded_and_joined(tiny_llama: Path, tmp_path: Path) -> None:
    """All rows in every step, so that both see the same."""
    data = small.write(tmp_path / "rows.jsonl", small.questions(8))
    losses = {}
    for together in (True, False):
        run = small.train(
            tmp_path / "runs", tiny_llama, data, task="instruct", method="lora", train__join_rows=together,
            train__batch_size=8, train__max_steps=4, train__lr=1e-2, eval__base=False, eval__baselines=False,
            data__validation=str(data), run__name=f"joined-{together}",
        )  # fmt: skip
        losses[together] = small.losses(run)
    assert losses[True] == pytest.approx(losses[False], rel=1e-4) and losses[True][-1] < losses[True][0]


def test_a_run_of_an_older_version_stays_padded(tiny_llama: Path, tmp_path: Path) -> None:
    data = small.write(tmp_path / "rows.jsonl", small.questions(8))
    run = small.train(
        tmp_path / "runs", tiny_llama, data, task="instruct", method="lora", train__max_steps=1, train__lr=1e-3,
        eval__base=False, eval__baselines=False,
    )  # fmt: skip
    assert run.dir.config().train.join_rows
    lines = run.dir.config_file.read_text(encoding="utf-8").splitlines()
    assert sum("join_rows" in line for line in lines) == 1
    run.dir.config_file.write_text("\n".join(line for line in lines if "join_rows" not in line), encoding="utf-8")
    assert not run.dir.config().train.join_rows


def test_the_configuration_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, "train", "data.train=x.jsonl", "train.join_row=false", "--json")
    assert answer.code == 2 and "join_rows" in answer.error["hint"]
