"""The running batch: requests join and leave at any step, and each gets what it gets alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from small import lively, one_thread  # noqa: F401
from tunery.generate import rows as row_cache
from tunery.generate.batcher import Batcher, Request
from tunery.generate.engine import Sampling, generate

DECODERS = ["tiny_llama", "tiny_gpt2", "tiny_gemma", "tiny_qwen"]


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest) -> Any:
    base = request.getfixturevalue(request.param)
    folder = base.with_name(f"{base.name}-lively")
    if not folder.exists():
        lively(base, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def llama(tiny_llama: Path) -> Any:
    folder = tiny_llama.with_name(f"{tiny_llama.name}-lively")
    if not folder.exists():
        lively(tiny_llama, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def requests(count: int, seed: int = 0, longest: int = 60) -> list[Request]:
    """Prompts and answers of very different length; every third is sampled."""
    pick = random.Random(seed)
    found = []
    for i in range(count):
        sampling = Sampling(pick.randint(1, 40), temperature=0.8 if i % 3 == 2 else 0.0, top_p=0.9, seed=i)
        prompt = [pick.randrange(5, 300) for _ in range(pick.randint(1, longest))]
        found.append(Request(prompt, sampling, stop_ids=set(pick.sample(range(300), 20))))
    return found


def alone(model: Any, one: Request) -> list[int]:
    found: list[int] = []
    sampling = one.sampling
    for event in run(Batcher(model, 1), [Request(one.prompt, sampling, one.stop_ids)]):
        found += [event.token.id] if event.token else []
    return found


def run(batcher: Batcher, asked: list[Request], pick: random.Random | None = None) -> list[Any]:
    """Add requests, at random steps or all at once, until all have ended."""
    left, events = list(asked), []
    while left or batcher.busy:
        while left and (pick is None or pick.random() < 0.4):
            batcher.add(left.pop(0))
        events += batcher.step()
    return events


def texts(events: list[Any], asked: list[Request]) -> list[list[int]]:
    found: dict[Request, list[int]] = {one: [] for one in asked}
    for event in events:
        found[event.request] += [event.token.id] if event.token else []
    return [found[one] for one in asked]


def test_joining_and_leaving_at_random_steps_changes_no_answer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "BLOCK", 8)  # room runs out often
    asked = requests(24)
    batcher = Batcher(model, 6, columns=32)
    events = run(batcher, asked, random.Random(1))
    expected = [alone(model, one) for one in asked]
    assert texts(events, asked) == expected
    assert len({tuple(answer) for answer in expected}) > 8
    ends = [event for event in events if event.end]
    assert len(ends) == len(asked)
    assert {event.end for event in ends} == {"stop", "length"}
    assert not batcher.rows and not batcher.waiting and not batcher.reading


def test_an_encoder_decoder_answers_in_closed_batches(tiny_t5: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    asked = requests(9, seed=3)
    assert texts(run(Batcher(model, 4), asked, random.Random(2)), asked) == [alone(model, one) for one in asked]


def test_a_seed_gives_the_same_text_whatever_else_runs(llama: Any) -> None:
    warm = Sampling(20, temperature=1.0, seed=7)
    seen = set()
    for others in range(4):
        one = Request([9, 8, 7], warm)
        asked = [*requests(others, seed=others), one, *requests(others, seed=9)]
        seen.add(tuple(texts(run(Batcher(llama, 5), asked, random.Random(others)), [*asked])[others]))
    assert len(seen) == 1
    again = texts(run(Batcher(llama, 2), [other := Request([9, 8, 7], Sampling(20, temperature=1.0, seed=8))]), [other])
    assert tuple(again[0]) not in seen


def test_the_batch_is_what_generate_goes_through(model: Any) -> None:
    asked = [Request(one.prompt, Sampling(12)) for one in requests(7, seed=5)]
    together = generate(model, [one.prompt for one in asked], (), Sampling(12))
    assert texts(run(Batcher(model, 3, columns=16), asked, random.Random(4)), asked) == together


def test_running_rows_do_not_wait_for_a_long_prompt(llama: Any) -> None:
    """The prompt is read 16 columns a step; the row that runs gets a token in each of those steps."""
    batcher = Batcher(llama, 4, columns=16)
    first, second = Request([5, 6], Sampling(30)), Request([7] * 100, Sampling(3))
    batcher.add(first)
    batcher.step()
    batcher.add(second)
    steps = 0
    while not second.written:
        before = first.written
        batcher.step()
        assert first.written == before + 1
        steps += 1
    assert steps == 7, "100 columns, 16 a step"


def test_cancelled_at_any_time(llama: Any) -> None:
    asked = requests(12, seed=6)
    expected = [alone(llama, one) for one in asked]
    batcher = Batcher(llama, 3, columns=16)
    for one in asked:
        batcher.add(one)
    gone, events, pick = set(), [], random.Random(8)
    while batcher.busy:
        events += batcher.step()
        if pick.random() < 0.3:
            one = pick.choice(asked)
            if batcher.cancel(one):
                gone.add(one)
    assert not batcher.cancel(asked[0])
    found = texts(events, asked)
    for one, answer, whole in zip(asked, found, expected, strict=True):
        assert answer == (whole[: len(answer)] if one in gone else whole)
    assert {event.request for event in events if event.end} == set(asked) - gone
    assert 2 < len(gone) < 12


def test_probabilities_are_the_models_own(llama: Any) -> None:
    one = Request([5, 6, 7], Sampling(3, temperature=0.5, top_p=0.5, seed=1), logprobs=4)
    tokens = [event.token for event in run(Batcher(llama, 1), [one]) if event.token]
    ids = [5, 6, 7]
    for token in tokens:
        with torch.no_grad():
            expected = llama(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-4)
        assert [i for i, _ in token.top] == expected.topk(4).indices.tolist()
        assert [p for _, p in token.top] == pytest.approx(expected.topk(4).values.tolist(), abs=1e-4)
        ids.append(token.id)


def test_one_request_that_cannot_be_computed_ends_alone(llama: Any) -> None:
    """Its neighbours in the group that is read are read again without it."""
    bad = Request([5, 10**6], Sampling(5))  # no such token
    asked = [*requests(3, seed=1, longest=4), bad, *requests(3, seed=2, longest=4)]
    expected = [alone(llama, one) for one in asked if one is not bad]
    events = run(Batcher(llama, 8, isolate=True), asked)
    assert [answer for one, answer in zip(asked, texts(events, asked), strict=True) if one is not bad] == expected
    (end,) = [event for event in events if event.request is bad]
    assert end.end == "error" and end.problem
    with pytest.raises(IndexError):
        run(Batcher(llama, 8), [Request([5, 10**6], Sampling(5))])


@pytest.mark.parametrize("temperature", [1e-40, 5e-324])
def test_a_temperature_next_to_nothing_is_greedy_and_hurts_no_neighbour(llama: Any, temperature: float) -> None:
    cold = [Request([5, 6, 7 + i], Sampling(12, temperature, top_p=(1.0, 0.5)[i], top_k=i * 3)) for i in range(2)]
    greedy = [alone(llama, Request(one.prompt, Sampling(12))) for one in cold]
    others = requests(6, seed=4)
    asked = [*others[:3], *cold, *others[3:]]
    expected = [*(alone(llama, one) for one in others[:3]), *greedy, *(alone(llama, one) for one in others[3:])]
    events = run(Batcher(llama, 8, isolate=True), asked)
    assert {event.end for event in events if event.end} <= {"stop", "length"}
    assert texts(events, asked) == expected


def test_an_empty_batch_holds_no_memory(llama: Any) -> None:
    batcher = Batcher(llama, 4)
    run(batcher, requests(6))
    assert batcher._state is None and batcher._prompts is None


def test_no_tokens_wanted_none_given(llama: Any) -> None:
    (event,) = run(Batcher(llama, 2), [Request([5], Sampling(0))])
    assert event.token is None and event.end == "length"


def test_what_does_not_fit_into_memory_waits(llama: Any) -> None:
    """Room for 200 columns: two rows of 100, or one that alone is larger."""
    from tunery.generate import decoding

    batcher = Batcher(llama, 8, memory=200 * decoding.token_bytes(llama))
    asked = [Request([5] * 10, Sampling(90)) for _ in range(5)]
    asked.append(Request([5] * 150, Sampling(100)))
    for one in asked:
        batcher.add(one)
    most = 0
    while batcher.busy:
        batcher.step()
        most = max(most, len(batcher.rows))
    assert most == 2 and all(one.written == one.sampling.max_new_tokens for one in asked)
