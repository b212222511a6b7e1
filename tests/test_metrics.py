"""Metrics: common checks on everything the registry finds, hand-computed tables, and the libraries they follow."""

from __future__ import annotations

import copy
import doctest
import importlib
import math
import pkgutil
import random
import re
import string
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import tunery.metrics
from tunery import registry
from tunery.metrics._text import answer_tokens, has_cjk, has_key, is_chinese, normalise_answer, tokens
from tunery.protocols import Metric, Scored

METRICS = registry.names("metric")
MODULES = [f"tunery.metrics.{module.name}" for module in pkgutil.iter_modules(tunery.metrics.__path__)]
TEXTS = [  # JSON objects are texts like others to most metrics
    '{"animal": "the quick brown fox", "moves": "jumps over it"}',
    '{"animal": "a lazy dog", "place": "in the warm sun"}',
    '{"地点": "今天上海的天气很好"}',
    '{"zwei": ["Löwe und Bär", "im grünen Wald"]}',
]

PERFECT: dict[str, Scored] = {
    "classes": Scored(predictions=list("abca"), references=list("abca"), labels=("a", "b", "c")),
    "multilabel": Scored(predictions=[("a",), ("b", "a"), ()], references=[("a",), ("a", "b"), ()], labels=("a", "b")),
    "numbers": Scored(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 4.0]),
    "text": Scored(
        predictions=list(TEXTS),
        references=[("other", text) for text in TEXTS],
        contains=[("quick", "fox"), ("dog",), ("上海",), ()],
    ),
    "tags": Scored(
        predictions=[["B-PER", "I-PER", "O"], ["O", "B-LOC"]], references=[("B-PER", "I-PER", "O"), ("O", "B-LOC")]
    ),
    "loss": Scored(loss_sum=0.0, loss_count=7),
}
WRONG: dict[str, Scored] = {
    "classes": replace(PERFECT["classes"], predictions=list("bcab")),
    "multilabel": replace(PERFECT["multilabel"], predictions=[("b",), (), ("b",)]),
    "numbers": replace(PERFECT["numbers"], predictions=[4.0, 2.5, 1.0]),
    "text": replace(PERFECT["text"], predictions=["nothing", "of this 147", "明月", ""]),
    "tags": replace(PERFECT["tags"], predictions=[["B-LOC", "O", "B-PER"], ["B-LOC", "O"]]),
    "loss": Scored(loss_sum=99.0, loss_count=7),
}
BEST = {"bleu": 100.0, "perplexity": 1.0}


def metric(name: str) -> Metric:
    found: Metric = registry.get("metric", name)()
    return found


def compute(name: str, predictions: list[Any], references: list[Any], **more: Any) -> dict[str, float]:
    return metric(name).compute(Scored(predictions=predictions, references=references, **more))


def approx(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-9)


# ------------------------------------------------------------------------------------- every metric there is


@pytest.mark.parametrize("name", METRICS)
def test_says_what_it_is(name: str) -> None:
    one = metric(name)
    assert one.name == name and one.summary and one.__doc__ and ">>>" in one.__doc__
    assert one.kind in PERFECT
    assert one.numbers and all(number.name.isidentifier() and number.summary for number in one.numbers)


@pytest.mark.parametrize("name", METRICS)
def test_perfect_predictions_get_the_best_value(name: str) -> None:
    one = metric(name)
    perfect, wrong = one.compute(PERFECT[one.kind]), one.compute(WRONG[one.kind])
    assert list(perfect) == list(wrong) == [number.name for number in one.numbers]
    for number in one.numbers:
        best = BEST.get(number.name, 1.0 if number.higher_is_better else 0.0)
        assert perfect[number.name] == approx(best)
        assert (perfect[number.name] > wrong[number.name]) == number.higher_is_better
        assert perfect[number.name] != wrong[number.name]


@pytest.mark.parametrize("name", METRICS)
def test_plain_floats_pure_and_deterministic(name: str) -> None:
    one = metric(name)
    scored = WRONG[one.kind]
    before = copy.deepcopy(scored)
    first = one.compute(scored)
    assert scored == before
    assert one.compute(scored) == first
    assert all(type(value) is float and math.isfinite(value) for value in first.values())


@pytest.mark.parametrize("name", METRICS)
def test_order_of_rows_does_not_matter(name: str) -> None:
    one = metric(name)
    good, bad = PERFECT[one.kind], WRONG[one.kind]
    mixed = replace(bad, predictions=[*good.predictions[:1], *bad.predictions[1:]])
    backwards = replace(
        mixed,
        predictions=mixed.predictions[::-1],
        references=mixed.references[::-1],
        contains=mixed.contains[::-1],
    )
    assert one.compute(backwards) == approx(one.compute(mixed))


@pytest.mark.parametrize("name", METRICS)
def test_no_rows_give_no_numbers(name: str) -> None:
    assert metric(name).compute(Scored()) == {}


@pytest.mark.parametrize("name", [name for name in METRICS if metric(name).kind in ("classes", "multilabel", "text")])
def test_empty_predictions_get_the_worst_value(name: str) -> None:
    one = metric(name)
    good = replace(PERFECT[one.kind], references=[('{"a": "one two three four"}',)] * 2)
    if one.kind != "text":
        good = replace(good, references=["a", "b"])
    if one.kind == "multilabel":
        good = replace(good, references=[("a",), ("b",)])
    empty: Any = () if one.kind == "multilabel" else ""
    scored = replace(good, predictions=[empty] * 2, contains=[("two",)] * 2)
    assert one.compute(scored) == dict.fromkeys((number.name for number in one.numbers), 0.0)


@pytest.mark.parametrize("name", [name for name in METRICS if metric(name).kind == "text"])
def test_rows_without_reference_or_key_are_left_out(name: str) -> None:
    one = metric(name)
    whole = replace(WRONG["text"], contains=[("nothing",), ("147",), ("上海",), ("x",)])
    more = replace(
        whole,
        predictions=[*whole.predictions, "unscorable"],
        references=[*whole.references, ()],
        contains=[*whole.contains, ()],
    )
    assert one.compute(more) == one.compute(whole)


@pytest.mark.parametrize("name", METRICS)
def test_rows_that_do_not_pair_up_are_refused(name: str) -> None:
    one = metric(name)
    if one.kind == "loss":
        return
    scored = PERFECT[one.kind]
    with pytest.raises(ValueError):
        one.compute(replace(scored, predictions=scored.predictions[:-1]))


@pytest.mark.parametrize("module", [*MODULES, "tunery.stats", "tunery.scoring"])
def test_documented_examples(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried and not failed


def test_listing_metrics_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tunery import scoring; scoring.number_names();"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'rouge_score', 'sacrebleu') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------- classification


def test_accuracy_and_f1_by_hand() -> None:
    # a: TP 2 FP 1 FN 1 → 2/3, 2/3, 2/3;  b: TP 1 FP 1 FN 0 → 1/2, 1, 2/3;  c: TP 0 FN 1 → 0.
    references, predictions = ["a", "a", "a", "b", "c"], ["a", "a", "b", "b", "a"]
    assert compute("accuracy", predictions, references) == approx({"accuracy": 3 / 5})
    assert compute("prf", predictions, references) == approx(
        {
            "precision_macro": (2 / 3 + 1 / 2) / 3,
            "recall_macro": (2 / 3 + 1) / 3,
            "f1_macro": (2 / 3 + 2 / 3) / 3,
            "precision_weighted": (3 * 2 / 3 + 1 / 2) / 5,
            "recall_weighted": 3 / 5,
            "f1_weighted": (3 * 2 / 3 + 2 / 3) / 5,
        }
    )


def test_prf_averages_over_the_classes_seen() -> None:
    with_unseen = compute("prf", ["a", "b"], ["a", "b"], labels=("a", "b", "never"))
    assert with_unseen["f1_macro"] == 1.0


def test_prf_does_not_make_a_class_of_an_answer_that_is_none() -> None:
    # Known classes: a has P 1, R 1/2; b has P 1, R 1. "dunno" only counts as a miss of a.
    result = compute("prf", ["a", "dunno", "b"], ["a", "a", "b"], labels=("a", "b"))
    assert result["recall_macro"] == approx(3 / 4) and result["f1_macro"] == approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_prf_equals_sklearn(seed: int) -> None:
    from sklearn.metrics import f1_score, precision_score, recall_score

    rng = random.Random(seed)
    references, predictions = rng.choices("abcd", k=30), rng.choices("abcde", k=30)
    mine = compute("prf", predictions, references)
    functions = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    for name, value in mine.items():
        what, average = name.split("_")
        assert value == approx(functions[what](references, predictions, average=average, zero_division=0))


def test_multilabel_by_hand() -> None:
    # Row by row TP/FP/FN: 1/0/1, 1/1/0, 0/0/0. Labels: a 1/0/0, b 1/0/1, c 0/1/0.
    result = compute("multilabel", [("a",), ("b", "c"), ()], [("a", "b"), ("b",), ()])
    assert result == approx(
        {
            "f1_micro": 2 * 2 / (2 * 2 + 1 + 1),
            "f1_samples": (2 / 3 + 2 / 3 + 1) / 3,
            "f1_macro_labels": (1 + 2 / 3 + 0) / 3,
            "subset_accuracy": 1 / 3,
        }
    )


def test_multilabel_order_of_names_does_not_matter_and_no_labels_is_right() -> None:
    assert set(compute("multilabel", [("b", "a")], [("a", "b")]).values()) == {1.0}
    assert set(compute("multilabel", [(), ()], [(), ()]).values()) == {1.0}


# --------------------------------------------------------------------------------------------- numbers, loss


def test_regression_by_hand() -> None:
    # Errors 1 0 -1 2; deviations from the means 3 and 2.5: -1 -1 -1 3 and -1.5 -.5 .5 1.5.
    result = compute("regression", [2.0, 2.0, 2.0, 6.0], [1.0, 2.0, 3.0, 4.0])
    assert result["mae"] == approx(1.0)
    assert result["rmse"] == approx(math.sqrt(6 / 4))
    assert result["r2"] == approx(1 - 6 / 5)
    assert result["pearson"] == approx(6 / math.sqrt(12 * 5))
    # Ranks 2 2 2 4 and 1 2 3 4: deviations -.5 -.5 -.5 1.5 and -1.5 -.5 .5 1.5.
    assert result["spearman"] == approx(3 / math.sqrt(3 * 5))


@pytest.mark.parametrize("seed", range(5))
def test_regression_equals_sklearn_and_scipy(seed: int) -> None:
    from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    rng = random.Random(seed)
    references = [float(rng.randint(0, 5)) for _ in range(20)]
    predictions = [r + rng.gauss(0, 2) for r in references]
    result = compute("regression", predictions, references)
    assert result["mae"] == approx(mean_absolute_error(references, predictions))
    assert result["rmse"] == approx(root_mean_squared_error(references, predictions))
    assert result["r2"] == approx(r2_score(references, predictions))
    assert result["pearson"] == approx(pearsonr(references, predictions).statistic)
    assert result["spearman"] == approx(spearmanr(references, predictions).statistic)


@pytest.mark.parametrize("predictions, references", [([0.1] * 3, [1.0, 2.0, 4.0]), ([1.0, 2.0], [0.1] * 2), ([1], [2])])
def test_constant_numbers_correlate_with_nothing(predictions: list[float], references: list[float]) -> None:
    result = compute("regression", predictions, references)
    assert result["pearson"] == result["spearman"] == 0.0
    assert math.isfinite(result["r2"])


def test_tiny_numbers_still_correlate() -> None:
    assert compute("regression", [1e-200, 2e-200, 4e-200], [1e-180, 2e-180, 4e-180])["pearson"] == approx(1.0)


def test_loss_and_perplexity() -> None:
    loss = metric("token_loss")
    assert loss.compute(Scored(loss_sum=4 * math.log(8), loss_count=4)) == approx(
        {"loss": math.log(8), "perplexity": 8.0}
    )
    huge = loss.compute(Scored(loss_sum=1e6, loss_count=1))
    assert huge["loss"] == 1e6 and math.isfinite(huge["perplexity"])
    assert math.isnan(loss.compute(Scored(loss_sum=math.nan, loss_count=1))["perplexity"])


# ---------------------------------------------------------------------------------------------- ROUGE, BLEU

ENGLISH = [
    ("The cat sat on the mat.", "A cat was sitting on the mat, wasn't it?"),
    ("naïve café owners don't pay 3.5% tax_rate", "Naive cafe owners do not pay 3.5% tax rate"),
    ("", "something"),
    ("β-carotene helps", "it helps: β-carotene!"),
]


def test_english_rouge_is_rouge_scores_default() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    expected = [scorer.score(reference, prediction) for prediction, reference in ENGLISH]
    result = compute("rouge", [p for p, _ in ENGLISH], [(r,) for _, r in ENGLISH])
    for name, value in result.items():
        assert value == approx(sum(score[name].fmeasure for score in expected) / len(expected))


def test_rouge_takes_the_best_reference_for_each_number() -> None:
    # Against "c b a": all words, no pair. Against "a b x": 2/3 of the words, 1/2 of the pairs.
    result = compute("rouge", ["a b c"], [("c b a", "a b x")])
    assert result == approx({"rouge1": 1.0, "rouge2": 0.5, "rougeL": 2 / 3})


@pytest.mark.parametrize(
    "prediction, reference, expected",
    [
        # 6 and 5 characters, 4 shared: P 4/6, R 4/5; pairs 今天, 天气 of 5 and 4; subsequence 今天气好.
        ("今天天气好。吗", "今天气很好！", {"rouge1": 8 / 11, "rouge2": 4 / 9, "rougeL": 8 / 11}),
        # pytorch 训 练 against 用 pytorch 训 练: P 1, R 3/4; pairs 2 of 2 and 3.
        ("PyTorch训练", "用 pytorch 训练", {"rouge1": 6 / 7, "rouge2": 4 / 5, "rougeL": 6 / 7}),
        ("хорошая погода", "Хорошая, тёплая погода", {"rouge1": 4 / 5, "rouge2": 0.0, "rougeL": 4 / 5}),
    ],
)
def test_rouge_of_other_scripts(prediction: str, reference: str, expected: dict[str, float]) -> None:
    assert compute("rouge", [prediction], [(reference,)]) == approx(expected)


def test_bleu_equals_sacrebleu() -> None:
    import sacrebleu

    predictions = ["the cat is on the mat today", "there is a big dog in the park"]
    references = [("the cat sat on the mat today", "a cat is on the mat"), ("there is a dog in the big park",)]
    streams = [[references[0][0], references[1][0]], [references[0][1], None]]
    expected = sacrebleu.corpus_bleu(predictions, streams).score
    assert 0 < expected < 100
    assert compute("bleu", predictions, references)["bleu"] == approx(expected)


def test_bleu_cuts_chinese_by_character() -> None:
    import sacrebleu

    prediction, reference = "我们今天在上海开会", "我们明天在上海开会"
    expected = sacrebleu.corpus_bleu([prediction], [[reference]], tokenize="zh").score
    assert 0 < expected < 100
    assert compute("bleu", [prediction], [(reference,)])["bleu"] == approx(expected)


# -------------------------------------------------------------------------------------------- short answers


def squad_normalise(text: str) -> str:
    """SQuAD's evaluation as its authors describe it, written anew."""
    kept = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def squad_f1(prediction: str, truth: str) -> float:
    predicted, true = squad_normalise(prediction).split(), squad_normalise(truth).split()
    same = sum((Counter(predicted) & Counter(true)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(true)
    return 2 * precision * recall / (precision + recall)


SQUAD = [
    ("The Broncos!", ("Denver Broncos", "the Broncos")),
    ("in 1,889 a.d.", ("1889 AD", "year 1889")),
    ("to to be", ("to be or not to be",)),
    ("“curly” quotes", ("curly quotes",)),
    ("theatre anthem", ("the atre an them",)),
    ("", ("nothing",)),
    ("Löwe", ("löwe",)),
]


def test_english_answers_follow_squad() -> None:
    for prediction, truths in SQUAD:
        expected = float(any(squad_normalise(prediction) == squad_normalise(truth) for truth in truths))
        assert compute("exact_match", [prediction], [truths])["exact_match"] == expected, prediction
        best = max(squad_f1(prediction, truth) for truth in truths)
        assert compute("answer_f1", [prediction], [truths])["f1"] == approx(best), prediction


@pytest.mark.parametrize(
    "prediction, reference, exact, f1",
    [
        ("《红楼梦》", "红楼梦。", 1.0, 1.0),
        ("上 海 市", "上海市", 1.0, 1.0),
        ("Ｗｉｎｄｏｗｓ 系统", "windows系统", 1.0, 1.0),
        ("１,２００元", "1200元", 1.0, 1.0),
        ("100，200", "100200元", 0.0, 2 * 1 / (1 + 2)),  # CMRC's script takes the full-width comma away
        ("3.5亿", "35亿", 0.0, 2 * 1 / (2 + 2)),
        ("北京大学", "北京", 0.0, 2 * 2 / (4 + 2)),
        ("4.5分", "4.5", 0.0, 2 * 1 / (2 + 1)),
        ("海上", "上海", 0.0, 2 * 1 / (2 + 2)),
        ("上海的浦东", "上海浦东", 0.0, 2 * 2 / (5 + 4)),  # CMRC 2018: the longest common run
        ("", "上海", 0.0, 0.0),
    ],
)
def test_chinese_answers(prediction: str, reference: str, exact: float, f1: float) -> None:
    assert compute("exact_match", [prediction], [(reference,)])["exact_match"] == exact
    assert compute("answer_f1", [prediction], [(reference,)])["f1"] == approx(f1)


def test_a_bare_string_is_one_reference() -> None:
    assert compute("exact_match", ["yes"], ["yes"])["exact_match"] == 1.0


# ------------------------------------------------------------------------------------------------ key facts


@pytest.mark.parametrize(
    "text, key, there",
    [
        ("It took 47.", "47", True),
        ("47, 48 and 49", "47", True),
        ("(47)", "47", True),
        ("147", "47", False),
        ("471", "47", False),
        ("47.5 s", "47", False),
        ("1.47", "47", False),
        ("47,500", "47", False),
        ("1,047", "47", False),
        ("47,500 people", "47500", True),
        ("47500 people", "47,500", True),
        ("x 3.5 y", "3.5", True),
        ("13.5", "3.5", False),
        ("3.55", "3.5", False),
        ("2.3.5", "3.5", False),
        ("1.5", ".5", False),
        ("rate of 47%", "47%", True),
        ("costs $47", "$47", True),
        ("共47人", "47", True),
        ("共４７人", "47", True),
        ("共147人", "47", False),
        ("有47，500是另一个", "47", True),
        ("category", "cat", False),
        ("The CAT.", "cat", True),
        ("catalogue, cat", "cat", True),
        ("snake_case", "case", False),
        ("New\n  York", "new york", True),
        ("written in C++ and C#", "C++", True),
        ("written in ABC++", "C++", False),
        ("Straße", "STRASSE", True),
        ("位于上海市", "上海", True),
        ("位于上 海市", "上海", True),
        ("GPT 模型", "GPT模型", True),
        ("在A股上市", "A股", True),
        ("北京", "上海", False),
        ("a.b", "a*b", False),
        ("", "47", False),
    ],
)
def test_has_key(text: str, key: str, there: bool) -> None:
    assert has_key(text, key) is there


def test_contains_needs_all_keys_and_counts_rows_that_have_any() -> None:
    keys = [("paris", "1889"), ("paris", "1890"), (), ("铁塔",)]
    result = compute("contains", ["Paris, 1889", "Paris, 1889", "x", "埃菲尔铁塔"], [""] * 4, contains=keys)
    assert result == approx({"contains": 2 / 3})
    assert compute("contains", ["x"], ["x"], contains=[()]) == {}


# --------------------------------------------------------------------------------------------- text helpers


@pytest.mark.parametrize(
    "text, chinese, cjk",
    [
        ("今天天气很好", True, True),
        ("用 GPU 训练模型", True, True),
        ("2019年5月12日", True, True),
        ("1.5亿", True, True),
        ("これはペンです", False, True),
        ("한국어", False, False),
        ("Beijing (北京) is a city", False, True),
        ("hello", False, False),
        ("", False, False),
    ],
)
def test_is_chinese(text: str, chinese: bool, cjk: bool) -> None:
    assert is_chinese(text) is chinese
    assert has_cjk(text) is cjk


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello, World_2!", ["hello", "world", "2"]),
        ("我爱Python３，你呢？", ["我", "爱", "python3", "你", "呢"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("ペンです", ["ペ", "ン", "で", "す"]),
        ("한국어 좋아요", ["한국어", "좋아요"]),
        ("𠮷野", ["𠮷", "野"]),
        ("…！ ", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_normalised_answers() -> None:
    assert normalise_answer("  An  apple a-day, the end.") == "apple aday end"
    assert normalise_answer("“你好”，世 界！") == "你好世界"
    assert answer_tokens("3.5") == ["35"] and answer_tokens("3.5", chinese=True) == ["3.5"]


def test_rows_that_know_one_label_only() -> None:
    """A single row, or a file with one label, is no binary classification."""
    found = compute("multilabel", [("a",), ()], [("a",), ("a",)])
    assert found == approx({"f1_micro": 2 / 3, "f1_samples": 0.5, "f1_macro_labels": 2 / 3, "subset_accuracy": 0.5})
