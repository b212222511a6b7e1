"""Augmentation: seeded copies of training rows that keep their label, counted beside the rows and not among them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from small import digests, documents, labelled, one_thread, questions, spans, tagged, train, write  # noqa: F401
from tunery import config, registry
from tunery.data import chance
from tunery.data.rows import fingerprint
from tunery.data.words import pieces, places
from tunery.errors import ConfigError, DataError, TuneryError
from tunery.protocols import Augmenter, Example
from tunery.run import train as training
from tunery.run.augmentation import Augmentation
from tunery.run.check import check
from tunery.run.dataset import Dataset, load_dataset
from tunery.run.run import Run
from tunery.train.loop import Trainer

ENGLISH = "The room was not clean, but the friendly staff helped us with a good meal and a small upgrade."
CHINESE = "房间不干净，但是服务员很热情，晚饭也很好吃。"
SYNONYMS = "# invented for tests\ngood, fine, nice\nsmall，little\n热情, 亲切, 友好\nroom service, in-room dining\n"
PARAPHRASES = f"{ENGLISH}\tIt was not clean, but the people were kind.\n{CHINESE}\t屋子不干净，不过大家都很好。\n"


def step(name: str, tmp_path: Path, **keys: Any) -> Augmenter:
    if name == "synonym" and "wordnet" not in keys:
        keys.setdefault("file", str(tmp_path / "synonyms.txt"))
        (tmp_path / "synonyms.txt").write_text(SYNONYMS, encoding="utf-8")
    if name == "back_translation":
        keys.setdefault("file", str(tmp_path / "paraphrases.tsv"))
        (tmp_path / "paraphrases.tsv").write_text(PARAPHRASES, encoding="utf-8")
    return registry.get("augmenter", name)(registry.config_class("augmenter", name)(**keys))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", registry.names("augmenter"))
@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_every_step_changes_a_text(name: str, text: str, tmp_path: Path) -> None:
    """By the given chance alone; negations are still there."""
    augmenter = step(name, tmp_path)
    found = [augmenter.augment(text, random.Random(seed)) for seed in range(20)]
    assert found == [augmenter.augment(text, random.Random(seed)) for seed in range(20)]
    made = {new for new in found if new is not None}
    assert made and text not in made
    assert len(made) > 1 or name == "back_translation"
    for new in made:
        assert ("不" in new) if text == CHINESE else ("not" in new)
        assert new == new.strip()


@pytest.mark.parametrize("name", registry.names("augmenter"))
@pytest.mark.parametrize("text", ["", " ", "!", "a", "好", "not", "\ud800 x"])
def test_hardly_any_text(name: str, text: str, tmp_path: Path) -> None:
    new = step(name, tmp_path).augment(text, random.Random(1))
    assert new is None or (new.strip() and new != text) or not text.strip()


def test_what_the_steps_do(tmp_path: Path) -> None:
    def words(text: str | None) -> list[str]:
        parts = pieces(text or "")
        return [parts[place] for place in places(parts)]

    for seed in range(20):
        pick = random.Random(seed)
        assert Counter(words(step("swap", tmp_path).augment(ENGLISH, pick))) == Counter(words(ENGLISH))
        spaced = step("insert_space", tmp_path, share=0.5).augment(ENGLISH, pick) or ""
        assert spaced.replace(" ", "") == ENGLISH.replace(" ", "")
        assert len(spaced) == len(ENGLISH) + 8, "half of the 17 words that have two letters, and not the negation"
        deleted = words(step("delete", tmp_path, share=0.3).augment(ENGLISH, pick))
        assert len(deleted) == 14 and not Counter(deleted) - Counter(words(ENGLISH))
        cut = step("truncate", tmp_path).augment(ENGLISH, pick) or ""
        assert ENGLISH.startswith(cut) and 15 <= len(words(cut)) <= 18
        assert step("truncate", tmp_path).augment("I like it not", pick) is None
    assert (
        step("synonym", tmp_path, share=1).augment("Good. Room service!", random.Random(2)) == "Nice. In-room dining!"
    )
    assert step("synonym", tmp_path).augment("他很热情", random.Random(1)) in ("他很亲切", "他很友好")
    assert step("synonym", tmp_path).augment("goodness", random.Random(1)) is None
    assert step("back_translation", tmp_path).augment(CHINESE, random.Random(1)) == "屋子不干净，不过大家都很好。"
    assert [chance.negates(word) for word in ("Never", "isn’t", "没", "note")] == [True, True, True, False]


def test_wordnet_if_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nltk import corpus

    class Meaning:
        def lemma_names(self) -> list[str]:
            return ["big", "large", "great_big"]

    class WordNet:
        def synsets(self, word: str) -> list[Meaning]:
            return [Meaning()] if word == "big" else []

    class Missing:
        def synsets(self, word: str) -> list[Meaning]:
            raise LookupError(word)

    monkeypatch.setattr(corpus, "wordnet", WordNet(), raising=False)
    assert step("synonym", tmp_path, wordnet=True).augment("A big house", random.Random(1)) == "A large house"
    monkeypatch.setattr(corpus, "wordnet", Missing(), raising=False)
    with pytest.raises(ConfigError, match=r"wordnet is not installed → python -m nltk\.downloader"):
        step("synonym", tmp_path, wordnet=True)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("synonym", "good\n", r"list.txt:1: a group of synonyms has two words"),
        ("synonym", "# nothing\n", r"list.txt: no synonyms in this file"),
        ("back_translation", "a\tb\nno tab\n", r"list.txt:2: not an original, a tab and a paraphrase"),
        ("back_translation", "\n", r"list.txt: no paraphrases in this file"),
    ],
)
def test_bad_lists(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(TuneryError, match=said):
        Augmentation([registry.config_class("augmenter", name).model_validate({"file": str(tmp_path / "list.txt")})])
    for missing in ("gone.txt", "."):
        with pytest.raises(TuneryError, match="cannot be read"):
            Augmentation([registry.config_class("augmenter", name).model_validate({"file": str(tmp_path / missing)})])


def test_a_list_of_synonyms_is_needed() -> None:
    with pytest.raises(ConfigError, match="step synonym needs a list of words"):
        Augmentation(config.load(None, ["data.augment=[synonym]"]).data.augment)


# --------------------------------------------------------------------------------------------- copies

STEPS = "data.augment=[{name: swap, share: 0.5, copies: 2}, {name: delete, share: 0.3}]"


def loaded(file: Path, *given: str, seed: int = 42) -> Dataset:
    return load_dataset(config.load(None, [f"data.train={file}", *given]).data, None, seed)


def plain(examples: Sequence[Example]) -> list[tuple[str, str, str]]:
    return [(e.text, str(e.label), e.copy) for e in examples]


def test_only_training_rows_and_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "t.jsonl", labelled(40))
    found, without = loaded(file, STEPS), loaded(file)
    assert list(found.splits["validation"]) == list(without.splits["validation"])
    train_rows = list(found.splits["train"])
    assert train_rows[: len(without.splits["train"])] == list(without.splits["train"]), "the originals are kept"
    copies = train_rows[len(without.splits["train"]) :]
    assert copies and {e.copy for e in copies} == {"swap", "delete"}
    by_place = {e.where: e for e in without.splits["train"]}
    assert all(e.label == by_place[e.where].label and e.text != by_place[e.where].text for e in copies)
    held = {fingerprint(e) for e in found.splits["validation"]}
    marks = [fingerprint(e) for e in train_rows]
    assert held.isdisjoint(marks), "no copy of a held-out row"
    assert len(set(marks)) == len(set(map(fingerprint, without.splits["train"]))) + len(copies), "no copy twice"
    assert list(loaded(file, STEPS).splits["train"]) == train_rows
    monkeypatch.chdir(tmp_path)
    assert plain(loaded(Path("t.jsonl"), STEPS).splits["train"]) == plain(train_rows), "whatever the file is called"
    others = [e.text for e in loaded(file, STEPS, seed=43).splits["train"] if e.copy]
    assert others != [e.text for e in copies]
    assert any(f"train: {len(copies)} augmented copies" in note for note in found.notes)
    assert sum(found.ledger.counts().values()) == 40


def test_a_copy_never_stands_in_another_split(tmp_path: Path) -> None:
    """Half a training row is a test row with another label: the copy that would equal it is not made."""
    file = write(tmp_path / "t.jsonl", [{"text": "good film", "label": "a"}, {"text": "plot fine", "label": "b"}])
    test = write(tmp_path / "v.jsonl", [{"text": "Film  good", "label": "b"}])
    found = loaded(file, f"data.validation={test}", "data.augment=[{name: swap, copies: 3}]")
    assert [e.text for e in found.splits["train"] if e.copy] == ["fine plot"]


def test_questions_change_and_answers_do_not(tmp_path: Path) -> None:
    asked = write(tmp_path / "t.jsonl", questions(20))
    for example in loaded(asked, "data.augment=[insert_space]").splits["train"]:
        if example.copy:
            (same,) = [e for e in loaded(asked).splits["train"] if e.where == example.where]
            assert example.messages[-1] == same.messages[-1] and example.messages[0] != same.messages[0]
    found = loaded(write(tmp_path / "s.jsonl", spans(12)), "data.augment=[swap]").splits["train"]
    copies = [e for e in found if e.copy]
    assert copies or found
    for example in copies:
        start, answer = example.starts[0], example.references[0]
        assert (example.text_pair or "")[start : start + len(answer)] == answer


@pytest.mark.parametrize(
    ("rows", "said"), [(tagged(8), "step swap would part words from their tags"), (documents(8), "what is learnt")]
)
def test_rows_that_it_would_break_are_refused(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(write(tmp_path / "t.jsonl", rows), "data.augment=[swap]")


# ----------------------------------------------------------------------------------------------- a run


def test_check_counts_copies_beside_the_rows(tmp_path: Path, tiny_bert: Path) -> None:
    file = write(tmp_path / "t.jsonl", labelled(40))
    given = [f"data.train={file}", f"model={tiny_bert}", "data.max_length=20"]
    with_copies, without = check(config.load(None, [*given, STEPS])), check(config.load(None, given))
    assert with_copies["augmented"] > 30 and without["augmented"] == 0
    for key in ("rows_read", "used", "splits", "labels", "truncated", "findings"):
        assert with_copies[key] == without[key], key
    assert with_copies["details"]["train"]["rows"] == 36
    assert with_copies["supervised_tokens"] == without["supervised_tokens"] + with_copies["augmented"]


def test_copies_of_rows_that_are_too_long_are_left_out(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [*labelled(20), {"text": "parcel " * 300 + "good", "label": "good"}]
    file = write(tmp_path / "t.jsonl", rows)
    given = [f"data.train={file}", f"data.validation={write(tmp_path / 'v.jsonl', labelled(4, 1))}"]
    given += [f"model={tiny_bert}", "data.max_length=150", "data.on_long=drop"]
    found = check(config.load(None, [*given, "data.augment=[{name: truncate, share: 0.9}]"]))
    assert found["dropped"] == {"too_long": 1} and found["details"]["train"]["lengths"]["max"] <= 150


def test_a_run_with_cleaning_and_augmentation(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "text": f"<p>{row['text']}</p>"} for row in labelled(24)]
    file = write(tmp_path / "t.jsonl", rows)
    (tmp_path / "words.txt").write_text("parcel, packet\ninvoice, bill\n", encoding="utf-8")
    steps = [{"name": "swap", "share": 0.5}, {"name": "synonym", "file": str(tmp_path / "words.txt"), "share": 1}]
    settings: dict[str, Any] = {"data__clean": ["html"], "data__augment": steps, "train__max_steps": 4}
    run = train(tmp_path, tiny_bert, file, **settings)
    ledger = json.loads((run.path / "ledger.json").read_text())
    assert ledger["rows_read"] == 24 == sum(ledger["splits"].values()) and ledger["cleaned"] == 24
    assert run.manifest["rows"] == ledger["splits"] and run.manifest["augmented"] == ledger["augmented"] > 20
    assert str(tmp_path / "words.txt") in run.manifest["data"], "a resumed run needs the same list"
    again = train(tmp_path, tiny_bert, file, **settings)
    assert digests(again.path / "model") == digests(run.path / "model")
    plainly = train(tmp_path, tiny_bert, file, data__clean=["html"], train__max_steps=4)
    assert digests(plainly.path / "model") != digests(run.path / "model")
    assert Run(run.path).predict(["<p>great parcel</p>"]) == Run(run.path).predict(["great parcel"])


def test_resuming_from_another_folder_is_exact(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same copies and class weights, though files have other names then; a changed list of words is refused."""
    monkeypatch.chdir(tmp_path)
    write(Path("t.jsonl"), labelled(24))
    Path("words.txt").write_text("parcel, packet\n", encoding="utf-8")
    steps = [{"name": "swap"}, {"name": "synonym", "file": "words.txt", "share": 1}]
    settings: dict[str, Any] = {"data__clean": ["html"], "data__augment": steps, "train__class_weights": "balanced"}
    settings |= {"train__max_steps": 6, "train__checkpoint_every": 2, "train__dropout": 0.2}
    whole = train(tmp_path / "whole", tiny_bert, Path("t.jsonl"), **settings)
    step = Trainer.step

    def dying(self: Trainer) -> dict[str, float]:
        if self.now.step == 4:
            raise SystemExit("killed")
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "step", dying)
        train(tmp_path / "runs", tiny_bert, Path("t.jsonl"), **settings, run__name="cut")
    monkeypatch.chdir("/")
    Path(tmp_path / "words.txt").write_text("parcel, box\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"words.txt: the data changed"):
        training.resume(tmp_path / "runs/cut")
    Path(tmp_path / "words.txt").write_text("parcel, packet\n", encoding="utf-8")
    resumed = training.resume(tmp_path / "runs/cut")
    name = "adapter_model.safetensors"
    assert digests(resumed.path / "model")[name] == digests(whole.path / "model")[name]
    assert json.loads(resumed.ledger_file.read_text())["augmented"] == whole.manifest["augmented"]
