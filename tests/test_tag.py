"""Tagging: words and their tokens, CoNLL files, entity F1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tunery
from small import one_thread, tagged, train, write  # noqa: F401
from tiny import base_of
from tunery import config as configuration
from tunery import registry
from tunery.config import DataConfig
from tunery.data.batch import collate
from tunery.data.read import BadRow, read
from tunery.data.words import split
from tunery.errors import DataError, ModelError
from tunery.metrics.entity_f1 import entities
from tunery.protocols import IGNORE, SOFT, Example, Prediction, Row, Scored
from tunery.run.check import check
from tunery.run.dataset import load_dataset
from tunery.run.show import show
from tunery.run.sniff import sniff

TOKENIZERS = ["bert", "roberta", "gpt2", "llama", "t5", "distilbert", "modernbert"]
WORDS = ("Anna", "lives", "in", "London", ",", "不", "在", "北", "京", "unbelievably")
TAGS = ("B-PER", "O", "O", "B-LOC", "O", "O", "O", "B-LOC", "I-LOC", "O")
CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

北\tB-LOC
京\tI-LOC
\u3000\tO
"""


def make(**values: Any) -> Example:
    return registry.get("format", "tags")().example(Row(values, "f", 1))


def task_of(*tags: str) -> Any:
    task = registry.get("task", "tag")
    made = task(task.Config())
    made.restore({"tags": list(tags or ("O", "B-LOC", "B-PER", "I-LOC"))})
    return made


# ------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    "values",
    [
        {"words": ["a", "b"], "tags": ["O", "B-X"]},
        {"words": "a b", "tags": "O B-X"},
        {"words": '["a", "b"]', "tags": '["O", "B-X"]'},
    ],
)
def test_words_and_tags_in_all_forms(values: dict[str, Any]) -> None:
    example = make(**values)
    assert (example.words, example.tags) == (("a", "b"), ("O", "B-X"))
    assert example.input_text == "a b"


@pytest.mark.parametrize(
    ("words", "tags", "problem"),
    [
        (["a", "b"], ["O"], "2 words and 1 tags"),
        (["a", "b"], [0, 3], "tags"),
        ([], [], "words"),
        (["a", ""], ["O", "O"], "words"),
    ],
)
def test_what_cannot_be_learnt_is_refused(words: Any, tags: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        make(words=words, tags=tags)
    assert caught.value.hint


def test_common_column_names(tmp_path: Path) -> None:
    rows = [{"id": str(i), "tokens": row["words"], "ner_tags": row["tags"]} for i, row in enumerate(tagged(12))]
    found = load_dataset(DataConfig(train=str(write(tmp_path / "a.jsonl", rows))), None, 1)
    assert (found.format, found.task) == ("tags", "tag")
    assert found.columns == {"words": "tokens", "tags": "ner_tags"}


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.bio"])
def test_conll_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(CONLL, encoding="utf-8")
    rows = list(read(str(tmp_path / name)))
    assert [(row.line, row.values) for row in rows] == [
        (3, {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        (6, {"words": ["北", "京", "\u3000"], "tags": ["B-LOC", "I-LOC", "O"]}),
    ]


def test_a_word_without_a_tag_spoils_its_sentence_alone(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("a O\nb\n\nc B-X\n", encoding="utf-8")
    bad, good = read(str(tmp_path / "a.conll"))
    assert isinstance(bad, BadRow)
    assert bad.where.endswith("a.conll:2")
    assert good.values == {"words": ["c"], "tags": ["B-X"]}


@pytest.mark.parametrize("text", ["good\nvery good O\n", "I am O\nYou are O\n", "one line\n\nanother\n"])
def test_plain_texts_stay_plain(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert [row.values["text"] for row in read(str(tmp_path / "a.txt"))] == [x for x in text.split("\n") if x]


def test_unknown_tags_and_a_single_tag(tmp_path: Path) -> None:
    task = task_of()
    assert "B-ORG" in task.check(make(words=["a"], tags=["B-ORG"]))
    assert task.check(make(words=["a"], tags=["O"])) is None
    with pytest.raises(DataError, match="same tag 'O'"):
        task.fit([make(words=["a"], tags=["O"])])
    task.fit([make(words=["a", "b"], tags=["B-X", "O"])])
    assert task.tags == ("O", "B-X")
    task.fit([make(words=["a", "b"], tags=["B-X", "O"])], ["B-X", "I-X", "O"])
    assert task.tags == ("B-X", "I-X", "O")


# ------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("model", TOKENIZERS)
def test_the_first_token_of_each_word_has_its_tag(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer = base_of(request.getfixturevalue(f"tiny_{model}")).tokenizer
    task, example = task_of(), make(words=list(WORDS), tags=list(TAGS))
    row = task.encode(example, tokenizer, 200)[0]
    assert len(row.ids) == len(row.tags) == len(row.offsets)
    assert not row.truncated
    firsts = [i for i, tag in enumerate(row.tags) if tag != IGNORE]
    assert [task.tags[row.tags[i]] for i in firsts] == list(TAGS)
    assert [row.offsets[i] for i in firsts] == [(n, n + 1) for n in range(len(WORDS))]
    assert row.supervised == len(WORDS)
    if model in ("roberta", "gpt2", "llama"):
        inner = [i for i in row.ids if i not in tokenizer.all_special_ids]
        assert tokenizer.decode(inner) == "Anna lives in London ,不在北京unbelievably"
    # what the bare text gives, so that nothing is added between Chinese characters
    found = [Prediction([task.tags.index("O") if t == IGNORE else t for t in row.tags])]
    assert [p.value for p in task.combine([row], found, [example])] == [list(TAGS)]


def test_words_that_were_cut_off_are_outside(tiny_bert: Path) -> None:
    task, example = task_of(), make(words=["London"] * 20, tags=["B-LOC"] * 20)
    row = task.encode(example, base_of(tiny_bert).tokenizer, 10)[0]
    assert row.truncated
    assert len(row.ids) == 10
    assert row.supervised == 8
    assert task.combine([row], [Prediction([1] * 10)], [example])[0].value == ["B-LOC"] * 8 + ["O"] * 12


def test_soft_tokens_do_not_shift_the_tags(tiny_bert: Path) -> None:
    task, example = task_of(), make(words=list(WORDS), tags=list(TAGS))
    row = task.encode(example, base_of(tiny_bert).tokenizer, 99)[0]
    row.insert(1, range(SOFT, SOFT + 7))
    for one in (row, row.without_soft()):
        numbers = [0 if tag == IGNORE else tag for tag in one.tags]
        assert task.combine([one], [Prediction(numbers)], [example])[0].value == list(TAGS)


# --------------------------------------------------------------------------------------------- entity F1


def test_a_bare_text_is_cut_into_words() -> None:
    assert split("Anna 在北京。") == ("Anna", "在", "北", "京", "。")


@pytest.mark.parametrize(
    ("tags", "found"),
    [  # as seqeval 1.2.2's get_entities
        ("B-A I-A O B-A", [(0, 1, "A"), (3, 3, "A")]),
        ("I-A I-A O", [(0, 1, "A")]),
        ("B-A I-B I-B", [(0, 0, "A"), (1, 2, "B")]),
        ("B-A B-A", [(0, 0, "A"), (1, 1, "A")]),
        ("B-A E-A I-A S-A O", [(0, 1, "A"), (2, 2, "A"), (3, 3, "A")]),
        ("O O", []),
        ("B-X-Y I-X-Y", [(0, 1, "X-Y")]),
    ],
)
def test_entities(tags: str, found: list[tuple[int, int, str]]) -> None:
    assert entities(tags.split()) == found


def test_numbers_of_seqevals_own_example() -> None:
    true = [("O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"), ("B-PER", "I-PER", "O")]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    numbers = registry.get("metric", "entity_f1")().compute(Scored(predictions=predicted, references=true))
    assert numbers == {"entity_precision": 0.5, "entity_recall": 0.5, "entity_f1": 0.5, "token_accuracy": 0.8}


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_a_row_alone_has_the_loss_it_has_in_a_batch(model: str, request: pytest.FixtureRequest) -> None:
    base, task = base_of(request.getfixturevalue(f"tiny_{model}")), task_of("O", "B-GOOD", "B-BAD", "I-BAD")
    rows = [task.encode(make(**row), base.tokenizer, 99)[0] for row in tagged(5)]
    net, head = task.head(base)
    assert head
    assert net.config.id2label == {0: "O", 1: "B-GOOD", 2: "B-BAD", 3: "I-BAD"}
    pad = base.tokenizer.pad_token_id
    with torch.no_grad():
        together, count, _ = task.loss(net, collate(rows, pad))
        alone = sum(float(task.loss(net, collate([row], pad))[0]) for row in rows)
    assert int(count) == sum(len(row["words"]) for row in tagged(5))
    assert float(together) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(("model", "method"), [("bert", "full"), ("bert", "lora"), ("llama", "full"), ("t5", "full")])
def test_it_learns_predicts_and_reloads(
    model: str, method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rows = [*tagged(11), {"words": ["北", "京", "great"], "tags": ["B-BAD", "I-BAD", "B-GOOD"]}]
    data = write(tmp_path / "a.jsonl", rows)
    run = train(
        tmp_path, request.getfixturevalue(f"tiny_{model}"), data, method=method, data__validation=str(data),
        train__lr=1e-2, train__max_steps=80, train__patience=None, eval__every=40, train__dropout=0.0,
    )  # fmt: skip
    assert run.config.task_name == "tag"
    assert run.metrics["entity_f1"] > 0.9
    assert run.metrics["token_accuracy"] > 0.9
    lines = (run.path / "eval/validation/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["reference"] for record in records] == [row["tags"] for row in rows]
    asked = [{"words": row["words"]} for row in rows]
    predicted = run.predict(asked)
    assert [p.value for p in predicted] == [record["prediction"] for record in records]
    assert tunery.load(run.path).predict(asked) == predicted
    assert run.predict(" ".join(rows[0]["words"]))[0] == predicted[0]
    assert len(run.predict([{"words": ["strange"], "tags": ["B-NEVER"]}])[0].value) == 1


def test_an_architecture_without_the_head_says_so(tiny_bart: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", tagged(12))
    with pytest.raises(ModelError, match="no token_classification head") as caught:
        train(tmp_path, tiny_bart, data)
    assert caught.value.hint


def test_check_show_and_sniff(tiny_bert: Path, tmp_path: Path) -> None:
    rows = tagged(12)
    other = {**rows[0], "tags": ["B-GOOD"] * len(rows[0]["words"])}
    data = write(tmp_path / "a.jsonl", [*rows, other, rows[1]])
    unseen = write(tmp_path / "v.jsonl", [{"words": ["new"], "tags": ["B-NEW"]}, *rows[:2]])
    config = configuration.load(
        None, [f"data.train={data}", f"data.validation={unseen}", f"model={tiny_bert}", "task=tag", "data.on_leak=warn"]
    )
    found = check(config)
    kinds = [(f["kind"], f["line"]) for f in found["findings"] if f["file"] == str(data)]
    assert ("conflict", 13) in kinds
    assert ("duplicate", 14) in kinds
    assert [f["kind"] for f in found["findings"] if f["file"] == str(unseen)] == ["bad_row"]
    assert found["supervised_tokens"] == sum(len(r["words"]) for r in [*rows, other, rows[1], *rows[:2]])
    row = show(config, 1)["rows"][0]
    assert row["target"] == rows[0]["tags"]
    assert sum(bool(token["supervised"]) for token in row["tokens"]) == len(rows[0]["words"])
    sniffed = sniff(config)
    assert sniffed.task.name == "tag"
    assert sniffed.labels["O"] > sniffed.labels["B-BAD"]
    assert "B-NEW" in "".join(sniffed.bad)
