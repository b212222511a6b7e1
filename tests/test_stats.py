"""Intervals and tests against closed forms, scipy, and simulated coverage."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest

from tunery import stats
from tunery.stats import bootstrap_interval, mcnemar, paired_bootstrap, wilson


def test_bootstrap_agrees_with_scipy() -> None:
    import numpy as np
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    values = np.random.default_rng(3).exponential(size=60)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    low, high = bootstrap_interval(values.tolist(), resamples=20_000)
    assert low == pytest.approx(expected.low, rel=0.02)
    assert high == pytest.approx(expected.high, rel=0.02)


def test_bootstrap_is_seeded_and_narrows_with_data_and_confidence() -> None:
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(400)]
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    assert low < sum(values) / 400 < high
    few_low, few_high = bootstrap_interval(values[:40])
    assert few_high - few_low > high - low
    narrow_low, narrow_high = bootstrap_interval(values, confidence=0.5)
    assert low < narrow_low < narrow_high < high


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval([rng.gauss(5, 2) for _ in range(40)], resamples=400, seed=seed)
        hits += low <= 5 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_bootstrap_of_little_data() -> None:
    assert bootstrap_interval([0.1] * 3) == (0.1, 0.1)
    assert bootstrap_interval([2.0]) == (2.0, 2.0)
    low, high = bootstrap_interval([0.0] * 50 + [1.0])
    assert 0.0 <= low < high < 0.2
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_bootstrap_draws_in_blocks_without_losing_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(stats, "_BLOCK", 25)
    assert len(stats._resampled_means(np.arange(10.0), 101, seed=0)) == 101
    assert len(stats._resampled_means(np.arange(100.0), 7, seed=0)) == 7


@pytest.mark.parametrize("successes, n", [(0, 10), (1, 10), (8, 10), (10, 10), (500, 1000), (3, 7)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_equals_scipy(successes: int, n: int, confidence: float) -> None:
    from scipy.stats import binomtest

    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = wilson(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1


def test_wilson_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == 1.0
    with pytest.raises(ValueError):
        wilson(3, 2)


@pytest.mark.parametrize("b, c", [(0, 0), (0, 5), (1, 5), (5, 5), (10, 25), (40, 61), (480, 520)])
def test_mcnemar_equals_the_exact_binomial(b: int, c: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(c, b) == mcnemar(b, c)


@pytest.mark.parametrize("b, c", [(501, 500), (500, 600), (520, 560), (5000, 5200)])
def test_mcnemar_of_many_rows_is_close_to_exact(b: int, c: int) -> None:
    from scipy.stats import binomtest

    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, abs=2e-3)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError):
        mcnemar(-1, 3)


def test_paired_bootstrap_sees_a_small_steady_difference() -> None:
    rng = random.Random(2)
    hard = [rng.random() for _ in range(100)]
    better = [h + 0.05 + rng.gauss(0, 0.02) for h in hard]
    difference, low, high = paired_bootstrap(better, hard)
    assert 0 < low < difference < high < 0.1
    back, back_low, back_high = paired_bootstrap(hard, better)
    assert back == pytest.approx(-difference)
    assert (back_low, back_high) == pytest.approx((-high, -low), abs=0.002)


def test_paired_bootstrap_calls_noise_a_tie() -> None:
    rng = random.Random(3)
    difference, low, high = paired_bootstrap([rng.random() for _ in range(80)], [rng.random() for _ in range(80)])
    assert low < 0 < high and low < difference < high
    assert paired_bootstrap([1.0, 0.0], [1.0, 0.0]) == (0.0, 0.0, 0.0)


def tie(first_only: int, second_only: int, rows: int) -> bool:
    """Whether two models cannot be told apart that are right on other rows of so many."""
    both = [1.0] * (rows - first_only - second_only)
    first, second = (
        [1.0] * first_only + [0.0] * second_only + both,
        [0.0] * first_only + [1.0] * second_only + both,
    )
    _, low, high = paired_bootstrap(first, second)
    return low <= 0 <= high


def test_up_to_five_differing_rows_are_a_tie_and_six_for_one_side_are_none() -> None:
    for differing in (1, 2, 5):
        for rows in (differing, 100):
            assert tie(differing, 0, rows) and tie(0, differing, rows), (differing, rows)
    for rows in (6, 100):
        assert not tie(6, 0, rows) and not tie(0, 6, rows)


COUNTS = [(first, second) for first, second in product(range(13), repeat=2) if 0 < first + second <= 16]


def test_rows_right_or_wrong_are_decided_as_mcnemar_decides() -> None:
    for first, second in COUNTS:
        assert tie(first, second, 60) == (mcnemar(first, second) >= 0.05), (first, second)


def test_signs_of_differences_of_one_size_are_mcnemars() -> None:
    for first, second in COUNTS:
        assert stats.by_signs([0.5] * first + [-0.5] * second + [0.0] * 9) == mcnemar(first, second)
    assert stats.by_signs([0.3, 0.1 + 0.2]) == mcnemar(2, 0), "of one size but for rounding"
    assert stats.by_signs([0.0, 0.0]) == 1.0


def test_differences_of_several_sizes_get_random_signs() -> None:
    values = [0.9, 0.8, 0.75, 0.6, 0.5, -0.4, 0.3, 0.1]
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((-1, 1), repeat=8)]
    exact = sum(found >= sum(values) - 1e-9 for found in sums) / len(sums)
    assert stats.by_signs([*values, 0.0]) == pytest.approx(exact, abs=0.01)
    assert stats.by_signs([-value for value in values]) == pytest.approx(exact, abs=0.01)
    assert stats.by_signs(values) == stats.by_signs(values)
    assert stats.by_signs([1.0, 2.0] * 101) == 0.0, "so many need no help"
    _, low, _ = paired_bootstrap([0.9, 0.8, 0.7, 0.6, 0.5], [0.0] * 5)
    assert low <= 0, "five, even if all are above 0"


def test_paired_bootstrap_needs_pairs() -> None:
    with pytest.raises(ValueError):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError):
        paired_bootstrap([], [])


def test_results_are_plain_floats() -> None:
    results = [*bootstrap_interval([1.0, 2.0]), *wilson(1, 2), mcnemar(1, 2), *paired_bootstrap([1.0, 2.0], [0.0, 3.0])]
    assert all(type(value) is float and math.isfinite(value) for value in results)
