"""The one decoder: a row's text depends on its prompt and settings, not on its neighbours."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from small import lively, one_thread  # noqa: F401
from tunery.generate.engine import Sampling, generate

DECODERS = ["tiny_llama", "tiny_gpt2"]


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Larger embeddings make the choices of a random model clear, so that rounding does not decide them."""
    base = request.getfixturevalue(request.param)
    folder = base.with_name(f"{base.name}-lively")
    if not folder.exists():
        lively(base, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def prompts(*lengths: int) -> list[list[int]]:
    pick = random.Random(sum(lengths))
    return [[pick.randrange(5, 300) for _ in range(length)] for length in lengths]


def greedy(tokens: int) -> Sampling:
    return Sampling(max_new_tokens=tokens)


# ------------------------------------------------------------------------------------------------ greedy


def test_a_batch_says_what_each_row_says_alone(model: Any) -> None:
    asked = prompts(1, 60, 7, 200, 3, 31)
    together = generate(model, asked, (), greedy(24))
    alone = [generate(model, [prompt], (), greedy(24))[0] for prompt in asked]
    assert together == alone
    assert len({tuple(answer) for answer in together}) > 1
    for size in (2, 3):
        assert generate(model, asked, (), greedy(24), batch_size=size) == together


def test_rows_that_end_early_leave_the_others_undisturbed(model: Any) -> None:
    """Stop at a token that some rows say sooner than others."""
    asked = prompts(1, 60, 7, 200, 3, 31)
    free = generate(model, asked, (), greedy(24))
    stop = free[1][5]
    expected = [answer[: answer.index(stop)] if stop in answer else answer for answer in free]
    assert len({len(answer) for answer in expected}) > 1
    assert generate(model, asked, (stop,), greedy(24)) == expected
    assert generate(model, asked, (stop, 10**6), greedy(24), batch_size=2) == expected


def test_greedy_equals_transformers(model: Any) -> None:
    for prompt in prompts(1, 5, 40, 150):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt)), dtype=torch.long), max_new_tokens=24,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert generate(model, [prompt], (), greedy(24)) == [expected]


def test_greedy_equals_one_forward_pass_a_token(model: Any) -> None:
    """No cache, no padding: the definition."""
    (prompt,) = prompts(20)
    ids = list(prompt)
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert generate(model, [prompt], (), greedy(8)) == [ids[20:]]


@pytest.mark.parametrize("penalty", [1.5, 5.0])
@pytest.mark.parametrize("name", DECODERS)
def test_repetition_penalty_equals_transformers(name: str, penalty: float, request: pytest.FixtureRequest) -> None:
    model = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(name)).eval()
    changed = 0
    for prompt in prompts(4, 30, 150):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones((1, len(prompt)), dtype=torch.long), max_new_tokens=40,
            do_sample=False, eos_token_id=None, pad_token_id=0, repetition_penalty=penalty,
        )[0, len(prompt) :].tolist()  # fmt: skip
        answer = generate(model, [prompt], (), Sampling(max_new_tokens=40, repetition_penalty=penalty))[0]
        assert answer == expected
        changed += answer != generate(model, [prompt], (), greedy(40))[0]
    assert changed


# ---------------------------------------------------------------------------------------------- sampling


def test_sampling_follows_from_the_seed(model: Any) -> None:
    asked = prompts(3, 50, 9, 20)
    warm = Sampling(max_new_tokens=20, temperature=1.0, seed=5)
    torch.manual_seed(1)
    first = generate(model, asked, (), warm)
    torch.manual_seed(2)
    assert generate(model, asked, (), warm) == first
    assert generate(model, asked, (), Sampling(max_new_tokens=20, temperature=1.0, seed=6)) != first
    assert first != generate(model, asked, (), greedy(20))


def test_sampled_rows_do_not_depend_on_their_batch(model: Any) -> None:
    asked = prompts(3, 50, 9, 20, 100)
    warm = Sampling(max_new_tokens=20, temperature=1.0, top_p=0.9, seed=5)
    together = generate(model, asked, (), warm)
    for size in (1, 2, 3):
        assert generate(model, asked, (), warm, batch_size=size) == together
    stop = together[0][4]
    expected = [answer[: answer.index(stop)] if stop in answer else answer for answer in together]
    assert generate(model, asked, (stop,), warm) == expected
    assert generate(model, asked[:1], (), warm) == together[:1]


def test_equal_prompts_are_sampled_apart(model: Any) -> None:
    asked = prompts(6) * 4
    answers = generate(model, asked, (), Sampling(max_new_tokens=20, temperature=1.0))
    assert len({tuple(answer) for answer in answers}) == 4


def test_sampling_leaves_the_global_random_state_alone(model: Any) -> None:
    state = torch.get_rng_state()
    generate(model, prompts(4), (), Sampling(max_new_tokens=5, temperature=1.0))
    assert torch.equal(torch.get_rng_state(), state)


class Fixed(torch.nn.Module):
    """Always the same distribution: probabilities .5, .3, .15, .05 for the tokens 0 to 3."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig

        self.config = LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1, num_key_value_heads=1)
        self.logits = torch.nn.Parameter(torch.tensor([0.5, 0.3, 0.15, 0.05]).log())

    def forward(self, input_ids: torch.Tensor, past_key_values: Any, **_: Any) -> Any:
        from types import SimpleNamespace

        shape = (len(input_ids), 1, input_ids.shape[1], 8)
        past_key_values.update(torch.zeros(shape), torch.zeros(shape), 0)
        return SimpleNamespace(logits=self.logits.expand(len(input_ids), 1, 4))


def shares(**settings: Any) -> list[float]:
    """How often each token is chosen in 2,000 draws."""
    answers = generate(Fixed(), [[0]] * 20, (), Sampling(max_new_tokens=100, **settings), batch_size=20)
    drawn = [token for answer in answers for token in answer]
    return [drawn.count(token) / len(drawn) for token in range(4)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 1.0, "top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_k": 1}, [1, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 99}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 1.0, "top_p": 0.4}, [1, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.6}, [0.625, 0.375, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.94}, [0.526, 0.316, 0.158, 0]),
        ({"temperature": 1.0, "top_p": 0.6, "top_k": 3}, [0.625, 0.375, 0, 0]),
        ({"temperature": 0.5}, [0.685, 0.247, 0.062, 0.007]),
        ({"temperature": 0.01}, [1, 0, 0, 0]),
        ({"temperature": 1e-40}, [1, 0, 0, 0]),
        ({"temperature": 1e-40, "top_p": 0.9, "top_k": 3}, [1, 0, 0, 0]),
        ({"temperature": 0.0, "top_p": 0.1}, [1, 0, 0, 0]),
    ],
)
def test_the_distribution_is_the_one_asked_for(settings: dict[str, Any], expected: list[float]) -> None:
    found = shares(**settings)
    assert found == pytest.approx(expected, abs=0.04)
    assert [share == 0 for share in found if share == 0] == [True] * expected.count(0)


# ------------------------------------------------------------------------------------------ the edges


@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_no_more_than_max_new_tokens(model: Any, tokens: int) -> None:
    assert [len(answer) for answer in generate(model, prompts(3, 9), (), greedy(tokens))] == [tokens, tokens]


def test_a_first_token_that_stops_gives_an_empty_answer(model: Any) -> None:
    (prompt,) = prompts(5)
    (first,) = generate(model, [prompt], (), greedy(1))[0]
    assert generate(model, [prompt, *prompts(8)], (first,), greedy(5))[0] == []


def test_no_prompts_no_answers(model: Any) -> None:
    assert generate(model, [], (), greedy(5)) == []


def test_tokens_are_told_as_they_come(model: Any) -> None:
    asked, done = prompts(30, 2, 12), []  # type: ignore[var-annotated]
    told: list[tuple[int, int]] = []
    answers = generate(
        model, asked, (), greedy(6), 2, on_token=lambda i, token: told.append((i, token)), progress=done.append
    )
    assert [[token for i, token in told if i == row] for row in range(3)] == answers
    assert done == [2, 3]


def test_the_model_is_left_in_the_mode_it_was_in(model: Any) -> None:
    model.train()
    one = generate(model, prompts(9), (), greedy(12))
    assert model.training, "dropout must not be at work, and must be again afterwards"
    model.eval()
    assert generate(model, prompts(9), (), greedy(12)) == one
    assert not model.training


def test_an_answer_ends_where_the_model_does(tiny_gpt2: Path) -> None:
    """GPT-2 knows 512 positions; beyond them there is no embedding."""
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    long, short = generate(model, prompts(508, 3), (), greedy(20))
    assert len(long) == 5, "512 positions are read, the last of them gives one more token"
    assert len(short) == 20
    assert generate(model, prompts(508, 3)[:1], (), greedy(20)) == [long]
