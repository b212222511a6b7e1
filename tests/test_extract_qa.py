"""Extractive question answering: data in all its forms, windows, spans, and the official numbers."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import tunery
from small import one_thread, spans, train, write  # noqa: F401
from tiny import base_of
from tunery import config as configuration
from tunery import registry
from tunery.config import DataConfig
from tunery.data.batch import collate
from tunery.data.read import read
from tunery.errors import DataError, ModelError
from tunery.protocols import SOFT, Encoded, Example, Prediction, Row
from tunery.run.check import check
from tunery.run.dataset import load_dataset
from tunery.run.show import show

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TOKENIZERS = ["bert", "roberta", "gpt2", "llama", "t5", "bart"]
CONTEXT = "My name is Anna and I live in London. 你好，我的包裹在哪里？预计星期一送达，谢谢。 The film is good."
PARIS = {
    "context": "Paris is the capital of France. Paris is large.",
    "qas": [
        {"id": "1", "question": "What is large?", "answers": [{"text": "Paris", "answer_start": 32}]},
        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
    ],
}
BEIJING = {
    "context": "北京是首都。",
    "qas": [{"question": "首都？", "answers": [{"text": "北京", "answer_start": -1}]}],
}
NESTED = {
    "version": "1.1",
    "data": [{"title": "Paris", "paragraphs": [PARIS]}, {"title": "北京", "paragraphs": [BEIJING]}],
}


def make(**values: Any) -> Example:
    return registry.get("format", "squad")().example(Row(values, "f", 1))


def task_of(**settings: Any) -> Any:
    task = registry.get("task", "extract_qa")
    return task(task.Config(**settings))


def example_of(answer: str, context: str = CONTEXT, question: str = "What?") -> Example:
    return make(context=context, question=question, answers=[answer])


# ------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("answers", "references", "starts"),
    [
        (["Anna"], ("Anna",), (11,)),
        (["London", "Anna"], ("London", "Anna"), (30, 11)),
        ({"text": ["a", "a"], "answer_start": [4, 14]}, ("a",), (4,)),
        ([{"text": "a", "answer_start": 14}, {"text": "Anna", "answer_start": 11}], ("a", "Anna"), (14, 11)),
        ([{"text": "Anna", "answer_start": 3}], ("Anna",), (11,)),  # a wrong place
        ([{"text": "Anna"}], ("Anna",), (11,)),
        ('{"text": ["Anna"], "answer_start": [11]}', ("Anna",), (11,)),  # a CSV cell
        ('["Anna", "not there"]', ("Anna", "not there"), (11, -1)),
        ({"text": [], "answer_start": []}, ("",), ()),
    ],
)
def test_answers_in_all_forms(answers: Any, references: tuple[str, ...], starts: tuple[int, ...]) -> None:
    example = make(context="my name-is Anna and I live in " + "London", question="?", answers=answers)
    assert (example.references, example.starts) == (references, starts)


@pytest.mark.parametrize("answers", [["Anna", "Berg"], ["Anna"]])
def test_the_answer_to_learn_comes_first(answers: list[str]) -> None:
    example = make(context="Anna Berg", question="?", answers=answers, answer="Berg")
    assert example.references == ("Berg", "Anna")
    assert example.starts == (5, 0)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"answers": ["Berlin"]}, "does not stand in the context"),
        ({"answers": []}, "answers"),
        ({"answers": {"text": ["Anna"], "answer_start": [1, 2]}}, "answers"),
        ({"answers": ["Anna"], "is_impossible": True}, "is_impossible"),
        ({"answers": ["Anna"], "is_impossible": "perhaps"}, "is_impossible"),
    ],
)
def test_what_cannot_be_learnt_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        make(context="Anna", question="?", **values)
    assert caught.value.hint


@pytest.mark.parametrize("indent", [None, 1])
def test_nested_squad_json(indent: int | None, tmp_path: Path) -> None:
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(NESTED, indent=indent, ensure_ascii=False), encoding="utf-8")
    found = load_dataset(DataConfig(train=str(file), holdout=0.3), None, 1)
    assert (found.format, found.task) == ("squad", "extract_qa")
    examples = sorted((e for split in found.splits.values() for e in split), key=lambda e: e.line)
    assert [e.line for e in examples] == [1, 2, 3]
    assert [(e.text, e.references, e.starts) for e in examples] == [
        ("What is large?", ("Paris",), (32,)), ("Who?", ("",), ()), ("首都？", ("北京",), (0,)),
    ]  # fmt: skip


def test_lines_that_look_nested_stay_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [{"data": "x", "text": "a"}, {"data": "y", "text": "b"}])
    assert [row.values["text"] for row in read(str(file))] == ["a", "b"]


# ------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("answer", ["Anna", "London", "星期一", "哪里", "good"])
@pytest.mark.parametrize("model", TOKENIZERS)
def test_every_window_that_holds_the_answer_points_to_it(
    model: str, answer: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = base_of(request.getfixturevalue(f"tiny_{model}")).tokenizer
    rows = task_of(stride=8).encode(example_of(answer), tokenizer, 40)
    assert len(rows) > 1
    seen: set[int] = set()
    pointed = 0
    for row in rows:
        assert len(row.ids) == len(row.offsets) <= 40
        assert row.span is not None
        inside = [place for place in row.offsets if place[0] < place[1]]
        seen |= {i for a, b in inside for i in range(a, b)}
        if row.span != (0, 0):
            first, last = row.span
            found = CONTEXT[row.offsets[first][0] : row.offsets[last][1]].strip()
            assert found == answer or model != "bert"
            # bytes of two characters may be one token: then no span is tighter
            assert answer in found
            assert answer not in CONTEXT[row.offsets[first][1] : row.offsets[last][1]]
            assert answer not in CONTEXT[row.offsets[first][0] : row.offsets[last][0]]
            pointed += 1
        else:
            start = CONTEXT.index(answer)
            assert not (inside[0][0] <= start and start + len(answer) <= inside[-1][1])
    assert pointed
    assert "".join(c for i, c in enumerate(CONTEXT) if i not in seen).strip() == ""


def test_neighbouring_windows_share_the_stride(tiny_bert: Path) -> None:
    tokenizer = base_of(tiny_bert).tokenizer
    rows = task_of(stride=6).encode(example_of("Anna"), tokenizer, 30)
    parts = [[place for place in row.offsets if place[0] < place[1]] for row in rows]
    assert all(one[-6:] == other[:6] for one, other in pairwise(parts))


def test_a_question_without_room_for_the_context_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(DataError, match="no room for the context"):
        task_of().encode(example_of("Anna", question="good " * 40), base_of(tiny_bert).tokenizer, 40)


def scores(row: Encoded, first: int, last: int, value: float) -> Prediction:
    table = torch.zeros(len(row.ids) + 3, 2)  # padded, as in a batch
    table[first, 0] = table[last, 1] = value
    return Prediction(table)


def test_the_best_window_wins_and_soft_tokens_do_not_shift_it(tiny_bert: Path) -> None:
    task, example = task_of(stride=8), example_of("London")
    for soft in (0, 5):
        rows = task.encode(example, base_of(tiny_bert).tokenizer, 40)
        for row in rows:
            at = task.soft_at("between", example, base_of(tiny_bert).tokenizer)
            row.insert(at, range(SOFT, SOFT + soft))
            row.insert(1, range(SOFT, SOFT + soft))
        found = [scores(row, *row.span, 9.0 if row.span != (0, 0) else 1.0) for row in rows]
        assert [p.value for p in task.combine(rows, found, [example])] == ["London"]
        bare = [row.without_soft() for row in rows]
        again = [scores(row, *row.span, 9.0 if row.span != (0, 0) else 1.0) for row in bare]
        assert [p.value for p in task.combine(bare, again, [example])] == ["London"]


def test_answers_run_forwards_and_not_on_for_ever(tiny_bert: Path) -> None:
    tokenizer, example = base_of(tiny_bert).tokenizer, example_of("a", "a b c d e f g h i")
    row = task_of().encode(example, tokenizer, 60)[0]
    places = [i for i, (a, b) in enumerate(row.offsets) if a < b]
    table = torch.zeros(len(row.ids), 2)
    table[places[4], 0], table[places[1], 1] = 5.0, 4.0  # the end before the start
    table[places[5], 1] = 3.0
    assert task_of().combine([row], [Prediction(table)], [example])[0].value == "e f"
    table[places[8], 1] = 9.0
    assert task_of().combine([row], [Prediction(table)], [example])[0].value == "e f g h i"
    assert task_of(max_answer=2).combine([row], [Prediction(table)], [example])[0].value == "h i"


def example_without(context: str) -> Example:
    return make(context=context, question="?", answers={"text": [], "answer_start": []})


def test_no_answer_is_said_only_where_it_was_learnt(tiny_bert: Path) -> None:
    example = example_without("Anna lives in London")
    task = task_of()
    row = task.encode(example, base_of(tiny_bert).tokenizer, 60)[0]
    assert row.span == (0, 0)
    table = torch.zeros(len(row.ids), 2)
    table[0] = 1.0
    assert task.combine([row], [Prediction(table)], [example])[0].value != ""
    task.fit([example])
    assert task.combine([row], [Prediction(table)], [example])[0].value == ""
    table[-2] = 2.0
    assert task.combine([row], [Prediction(table)], [example])[0].value == "London"
    again = task_of()
    again.restore(task.state())
    assert again.unanswerable


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("model", ["bert", "llama", "t5", "bart"])
def test_a_row_alone_has_the_loss_it_has_in_a_batch(model: str, request: pytest.FixtureRequest) -> None:
    base = base_of(request.getfixturevalue(f"tiny_{model}"))
    task = task_of(stride=4)
    examples = [make(**row) for row in spans(4, longest=8)] + [example_of("London")]
    rows = [row for example in examples for row in task.encode(example, base.tokenizer, 40)]
    net, head = task.head(base)
    assert head
    pad = base.tokenizer.pad_token_id
    with torch.no_grad():
        together, count, _ = task.loss(net, collate(rows, pad))
        alone = sum(float(task.loss(net, collate([row], pad))[0]) for row in rows)
    assert int(count) == len(rows) == sum(row.supervised for row in rows)
    assert float(together) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "method"), [("bert", "full"), ("roberta", "full"), ("llama", "full"), ("t5", "full")]
)
def test_it_learns_predicts_and_reloads(
    model: str, method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rows = spans(12, longest=8)
    data = write(tmp_path / "a.jsonl", rows)
    run = train(
        tmp_path, request.getfixturevalue(f"tiny_{model}"), data, method=method, data__validation=str(data),
        data__max_length=40, task="extract_qa", task__stride=4, train__lr=1e-2, train__max_steps=60,
        train__patience=None, eval__every=30,
    )  # fmt: skip
    assert run.metrics["f1"] > max(0.7, run.manifest["base_metrics"]["f1"])
    lines = (run.path / "eval/validation/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["reference"] for record in records] == [row["answers"] for row in rows]
    assert all(record["prediction"] in row["context"] for record, row in zip(records, rows, strict=True))
    ledger = json.loads((run.path / "ledger.json").read_text(encoding="utf-8"))
    assert "windows" in json.dumps(ledger), "the longest contexts are cut into windows"
    asked = [{"context": row["context"], "question": row["question"]} for row in rows]
    predicted = [p.value for p in run.predict(asked)]
    assert predicted == [record["prediction"] for record in records], "of all windows, not of the first alone"
    assert [p.value for p in tunery.load(run.path).predict(asked)] == predicted
    with pytest.raises(DataError, match="no context"):
        run.predict("which number?")


def test_an_architecture_without_the_head_says_so(tiny_gemma: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", spans(12))
    with pytest.raises(ModelError, match="no question_answering head") as caught:
        train(tmp_path, tiny_gemma, data, task="extract_qa")
    assert caught.value.hint


def test_check_and_show(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [*spans(12, longest=8), {"context": "x", "question": "y?", "answers": ["z"]}])
    config = configuration.load(None, [f"data.train={data}", f"model={tiny_bert}", "data.max_length=40"])
    found = check(config)
    assert found["task"] == "extract_qa"
    assert found["windows"] > 0
    assert [f["line"] for f in found["findings"] if f["kind"] == "bad_row"] == [13]
    shown = show(config, 5)["rows"]
    for row in shown:
        marked = "".join(token["text"] for token in row["tokens"] if token["supervised"]).strip()
        assert marked.replace(" ", "") == (row["target"] or "[CLS]")


# --------------------------------------------------------------------------------- the official numbers


def squad_words(text: str) -> list[str]:
    """SQuAD's evaluate-v1.1, as its authors describe it."""
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def squad_scores(prediction: str, truths: list[str]) -> tuple[float, float]:
    def f1(truth: str) -> float:
        p, t = squad_words(prediction), squad_words(truth)
        same = (Counter(p) & Counter(t)).total()
        return 2 * (same / len(p)) * (same / len(t)) / (same / len(p) + same / len(t)) if same else 0.0

    return max(float(squad_words(prediction) == squad_words(t)) for t in truths), max(map(f1, truths))


MARKS = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def cmrc_pieces(text: str) -> list[str]:
    """CMRC 2018's mixed segmentation with rm_punc: Han one by one, the rest by NLTK."""
    from nltk.tokenize import NLTKWordTokenizer

    pieces, rest = [], ""
    for char in text.lower().strip():
        if char in MARKS:
            continue
        if "\u4e00" <= char <= "\u9fa5":
            pieces += [*NLTKWordTokenizer().tokenize(rest), char]
            rest = ""
        else:
            rest += char
    return [*pieces, *NLTKWordTokenizer().tokenize(rest)]


def cmrc_scores(prediction: str, truths: list[str]) -> tuple[float, float]:
    def run(one: list[str], other: list[str]) -> int:
        before, longest = [0] * (len(other) + 1), 0
        for piece in one:
            now = [0] + [before[j] + 1 if piece == o else 0 for j, o in enumerate(other)]
            before, longest = now, max(longest, *now)
        return longest

    def f1(truth: str) -> float:
        p, t = cmrc_pieces(prediction), cmrc_pieces(truth)
        same = run(t, p)
        return 2 * (same / len(p)) * (same / len(t)) / (same / len(p) + same / len(t)) if same else 0.0

    def plain(text: str) -> str:
        return "".join(char for char in text.lower().strip() if char not in MARKS)

    return max(float(plain(prediction) == plain(t)) for t in truths), max(map(f1, truths))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED}")
@pytest.mark.parametrize(
    ("name", "official"), [("xquad_en_extractive_qa", squad_scores), ("cmrc2018_zh_extractive_qa", cmrc_scores)]
)
def test_twenty_rows_score_as_the_official_script_scores_them(
    name: str, official: Any, tiny_bert: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (SHARED / name / "test.jsonl").read_text(encoding="utf-8").splitlines()[:20]]
    data = write(tmp_path / "twenty.jsonl", rows)
    two = write(tmp_path / "two.jsonl", rows[:2])
    run = train(tmp_path, tiny_bert, two, data__validation=str(two), method="full", train__max_steps=1)
    found = run.evaluate(data)
    lines = (run.path / "eval/twenty/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line)["prediction"] for line in lines]
    assert found["rows"] == len(predictions) == 20
    single = [official(p, row["answers"]) for p, row in zip(predictions, rows, strict=True)]
    assert found["metrics"]["exact_match"] == pytest.approx(sum(exact for exact, _ in single) / 20)
    assert found["metrics"]["f1"] == pytest.approx(sum(f1 for _, f1 in single) / 20, abs=1e-9)
    # an untrained model is nearly always wrong: answers that are nearly right as well
    compute = registry.get("metric", "answer_f1")().compute
    from tunery.protocols import Scored

    for row in rows:
        start = row["context"].index(row["answer"])
        near = row["context"][max(start - 3, 0) : start + len(row["answer"]) - 1]
        scored = Scored(predictions=[near], references=[tuple(row["answers"])])
        assert compute(scored)["f1"] == pytest.approx(official(near, row["answers"])[1]), near
