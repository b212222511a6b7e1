"""Formats: a common set of checks for everything the registry finds, then what is special to each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunery import registry
from tunery.config import DataConfig
from tunery.data.columns import resolve, sniff
from tunery.errors import ConfigError, DataError
from tunery.protocols import Example, Format, Message, Row
from tunery.run.dataset import load_dataset

FORMATS = registry.names("format")
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def sample(column: str) -> Any:
    """A right value for a column of any format."""
    special = {"messages": TURNS, "history": [["q", "a"]], "answers": ["x"], "references": ["x"], "contains": ["x"]}
    special |= {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    special |= {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
    special |= {"instances": [{"input": "some", "output": "thing"}]}
    special |= {"answer_start": 0, "words": ["some", "words"], "tags": ["O", "B-X"]}
    return special.get(column, f"some {column}")


def make(name: str, need_target: bool = True, **values: Any) -> Example:
    chosen: Format = registry.get("format", name)()
    return chosen.example(Row(values, "data.jsonl", 7), need_target)


def full(name: str) -> dict[str, Any]:
    chosen = registry.get("format", name)
    return {column: sample(column) for column in chosen.columns}


# ------------------------------------------------------------------------------------- every format


@pytest.mark.parametrize("name", FORMATS)
def test_declarations(name: str) -> None:
    chosen = registry.get("format", name)
    assert chosen.columns
    assert chosen.summary
    assert chosen.__doc__
    assert chosen.name == name
    assert set(chosen.targets) <= set(chosen.columns)
    assert not set(chosen.columns) & set(chosen.optional)
    assert isinstance(chosen.task, str)


@pytest.mark.parametrize("name", FORMATS)
def test_its_own_columns_are_recognised(name: str) -> None:
    chosen = registry.get("format", name)
    assert sniff(chosen.columns)[0] == name
    assert chosen().matches([]) == 0.0
    assert 0 < chosen().matches([*chosen.columns, "id", "source"]) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_example_has_place_and_input(name: str) -> None:
    example = make(name, **full(name))
    assert example.where == "data.jsonl:7"
    assert example.input_text
    assert [bool(example.messages), bool(example.text), bool(example.words)].count(True) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_rows_to_predict_do_without_the_answer(name: str) -> None:
    chosen = registry.get("format", name)
    values = {column: value for column, value in full(name).items() if column not in chosen.targets}
    with_answer, without = make(name, **full(name)), make(name, need_target=False, **values)
    assert without.input_text == with_answer.input_text
    if chosen.targets:
        with pytest.raises(DataError):
            make(name, **values)


@pytest.mark.parametrize("value", [None, "", " \n\u200b", 3.5, {"a": 1}, True, float("nan")])
@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FORMATS for c in registry.get("format", n).columns])
def test_wrong_cells_are_data_errors(name: str, column: str, value: Any) -> None:
    if column == "label" and value in (3.5, True):
        return
    with pytest.raises(DataError) as caught:
        make(name, **{**full(name), column: value})
    assert caught.value.where == "data.jsonl:7"
    assert column in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize("value", [3.5, {"a": 1}, ["x", 3], True])
@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FORMATS for c in registry.get("format", n).optional])
def test_wrong_optional_cells_are_data_errors(name: str, column: str, value: Any) -> None:
    with pytest.raises(DataError, match=column):
        make(name, **{**full(name), column: value})


@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FORMATS for c in registry.get("format", n).optional])
def test_empty_optional_cells_are_as_if_absent(name: str, column: str) -> None:
    plain = make(name, **full(name))
    assert make(name, **{**full(name), column: None}) == plain
    assert make(name, **{**full(name), column: ""}) == plain


# ----------------------------------------------------------------------------------------- each format


def test_the_message_for_a_wrong_type_names_value_and_need() -> None:
    with pytest.raises(DataError) as caught:
        make("qa", question="How much?", answer=3.5)
    assert caught.value.problem == "column 'answer' is a number (3.5), text is needed"
    assert '"3.5"' in caught.value.hint


def test_a_missing_column_names_a_near_one() -> None:
    with pytest.raises(DataError, match="'answer' is missing") as caught:
        make("qa", question="How much?", anwser="5")
    assert "did you mean 'anwser'" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("pos", "pos"),
        (" pos ", " pos "),
        (3, "3"),
        (3.0, "3.0"),
        (-0.25, "-0.25"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (["a", "b", "a"], ("a", "b")),
        ([1, True], ("1", "true")),
        ([], ()),
        ('["a", "b"]', ("a", "b")),
        ("[1]", "[1]"),
    ],
)
def test_labels_are_text(value: Any, label: Any) -> None:
    assert make("labels", text="x", label=value).label == label


def test_label_lists_need_labels() -> None:
    for value in (["a", None], ["a", " "], [["a"]], float("inf")):
        with pytest.raises(DataError, match="label"):
            make("labels", text="x", label=value)


def test_labels_of_a_pair() -> None:
    example = make("labels", text="a", text_pair="b", label="same")
    assert (example.text, example.text_pair, example.input_text) == ("a", "b", "a\nb")


def test_qa_with_context_answers_and_facts() -> None:
    example = make("qa", question="Q?", answer="A", answers=["B", "A"], contains="a", context="C", system="S")
    assert [(m.role, m.content) for m in example.messages] == [
        ("system", "S"),
        ("user", "C\n\nQ?"),
        ("assistant", "A"),
    ]
    assert example.references == ("A", "B")
    assert example.contains == ("a",)
    assert make("qa", question="Q?", answer="A", contains='["a", "b"]').contains == ("a", "b")


def test_pairs_references() -> None:
    assert make("pairs", prompt="P", response="R").references == ("R",)
    assert make("pairs", prompt="P", response="R", references=["R", "T"]).references == ("R", "T")


def test_alpaca_input_and_history() -> None:
    example = make("alpaca", instruction="I", input="X", output="O", system="S", history=[["q", "a"]])
    assert [m.content for m in example.messages] == ["S", "q", "a", "I\n\nX", "O"]
    assert make("alpaca", instruction="I", input=" ", output="O").messages[0].content == "I"
    for history in ([["q"]], ["q"], [["q", 1]], [["q", " "]]):
        with pytest.raises(DataError, match="turn 1"):
            make("alpaca", instruction="I", output="O", history=history)


def chat(*turns: tuple[str, str], need_target: bool = True) -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    return make("chat", need_target, messages=messages)


def test_chat_good() -> None:
    assert chat(("system", "S"), ("user", "a"), ("assistant", "b")).references == ("b",)
    assert chat(("user", "a"), need_target=False).messages[-1].role == "user"
    text = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'
    assert make("chat", messages=text).messages == make("chat", messages=TURNS).messages  # a CSV cell


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([("user", "a")], "ends without an answer"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "message 2 is of the user"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c")], "message 3 is of the assistant"),
        ([("assistant", "a"), ("user", "b"), ("assistant", "c")], "message 1 is of the assistant"),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "message 2 is of the system"),
        ([("system", "a")], "no user message"),
        ([("parrot", "a")], "role 'parrot'"),
        ([("tool", "a")], "ends without an answer"),
        ([("user", " "), ("assistant", "c")], "message 1: content is blank"),
        ([], "no user message"),
    ],
)
def test_chat_bad(turns: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        chat(*turns)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ("hello", "an object is needed"),
        ({"role": "user"}, "lacks content"),
        ({"from": "human"}, "lacks value"),
        ({"value": "x"}, "lacks role"),
        ({"from": "parrot", "value": "x"}, "role 'parrot'"),
        ({"role": "user", "content": ["x"]}, "a part that is no text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "no text .image_url."),
        ({"role": "user", "content": {"a": 1}}, "content is an object"),
        ({"role": "assistant", "content": None}, "content is empty"),
        ({"role": "assistant", "tool_calls": [{"type": "function"}]}, "without the name"),
        ({"role": ["user"], "content": "x"}, "role"),
    ],
)
def test_chat_bad_messages(turn: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make("chat", messages=[turn, TURNS[1]])


CALL = {"name": "weather", "arguments": {"city": "北京"}}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
TOOL = {"name": "weather", "description": "of a city"}
OPENAI = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {**CALL, "arguments": '{"city": "北京"}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "2", "content": "warm"},
    {"role": "assistant", "content": "Sunny and warm."},
]
SHAREGPT = [
    {"from": "human", "value": "Weather?"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
    {"from": "observation", "value": "sunny"},
    {"from": "observation", "value": "warm"},
    {"from": "gpt", "value": "Sunny and warm."},
]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("chat", {"messages": OPENAI, "tools": [{"type": "function", "function": TOOL}]}),
        ("sharegpt", {"conversations": SHAREGPT, "tools": json.dumps([TOOL]), "system": "Be brief."}),
    ],
)
def test_tools_are_text(name: str, values: dict[str, Any]) -> None:
    messages = make(name, **values).messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    tools = '<tools>\n{"name": "weather", "description": "of a city"}\n</tools>'
    answers = "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>"
    expected = [f"Be brief.\n\n{tools}", "Weather?", CALL_TEXT, answers, "Sunny and warm."]
    assert [m.content for m in messages] == expected


def test_tools_without_a_system_message_and_calls_beside_text() -> None:
    said = [TURNS[0], {"role": "assistant", "content": "Let me see.", "function_call": {"name": "f", "arguments": "{"}}]
    messages = make("chat", messages=said, tools="any text").messages
    assert messages[0] == Message("system", "<tools>\nany text\n</tools>")
    assert messages[-1].content == 'Let me see.\n<tool_call>\n{"name": "f", "arguments": "{"}\n</tool_call>'
    assert make("chat", messages=TURNS, tools=[]).messages[0].role == "user"


def test_two_system_messages_in_sharegpt() -> None:
    turns = [{"from": "system", "value": "a"}, *sample("conversations")]
    assert make("sharegpt", conversations=turns).messages[0] == Message("system", "a")
    with pytest.raises(DataError, match="another in column 'system'"):
        make("sharegpt", conversations=turns, system="b")


# --------------------------------------------------------------------------------------- preferences

ASKED = {"role": "user", "content": "q"}
GOOD, BAD = ({"role": "assistant", "content": answer} for answer in "gb")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("q", "g", "b"),
        ([ASKED], [GOOD], [BAD]),
        ("q", [ASKED, GOOD], [ASKED, BAD]),
        ("q", GOOD, BAD),
        ("q", json.dumps([GOOD]), json.dumps([BAD])),
        ("q", {"from": "gpt", "value": "g"}, {"from": "gpt", "value": "b"}),
        ("\n\nHuman: q\n\nAssistant:", "g", "b"),
    ],
)
def test_preferences_are_answers(prompt: Any, chosen: Any, rejected: Any) -> None:
    example = make("preference", prompt=prompt, chosen=chosen, rejected=rejected)
    assert example.messages == (Message("user", "q"), Message("assistant", "g"))
    assert example.references == ("g",)
    assert make("preference", False, prompt=prompt).messages == (Message("user", "q"),)


def test_preferences_with_an_input_and_a_system_message() -> None:
    messages = make("preference", prompt="q", input="i", system="s", chosen="g", rejected="b").messages
    assert [m.content for m in messages] == ["s", "q\n\ni", "g"]
    said = [{"role": "system", "content": "t"}, ASKED, GOOD]
    assert make("preference", prompt="q", chosen=said, rejected="b").messages[0] == Message("system", "t")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"chosen": "b"}, "the same"),
        ({"chosen": []}, "'chosen' is an empty list"),
        ({"chosen": [ASKED]}, "ends without an answer"),
        ({"chosen": [{**ASKED, "content": "other"}, GOOD]}, "does not begin with the prompt"),
        ({"chosen": [{"role": "assistant"}]}, "column 'chosen': message 1 lacks content"),
        ({"prompt": [ASKED, GOOD]}, "ends with an answer"),
    ],
)
def test_bad_preferences(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make("preference", **{"prompt": "q", "chosen": "g", "rejected": "b", **values})


def test_transcripts() -> None:
    shared = "\n\nHuman: How far: 5 km?\n\nAssistant: Yes.\n\nHuman: Sure?"
    example = make("transcripts", chosen=f"{shared}\n\nAssistant: I am.", rejected=f"{shared}\n\nAssistant: No")
    assert [m.content for m in example.messages] == ["How far: 5 km?", "Yes.", "Sure?", "I am."]
    assert example.references == ("I am.",) and example.messages[0].role == "user"
    lines = make("transcripts", chosen="User: q\nAssistant: g\nA: 1", rejected="User: q\nAssistant: b")
    assert [m.content for m in lines.messages] == ["q", "g\nA: 1"]
    plain = make("preference", prompt="Human: a\n\nAssistant: b", chosen="g", rejected="b")
    assert len(plain.messages) == 2, "only a transcript that waits for an answer is one"
    assert make("transcripts", chosen=[ASKED, GOOD], rejected=[ASKED, BAD]).references == ("g",)
    asking = make("transcripts", False, chosen=f"{shared}\n\nAssistant:")
    assert asking.messages == example.messages[:3] and asking.references == ()


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ("no transcript", "no 'Human:' at its beginning"),
        ("\n\nAssistant: a\n\nHuman: b\n\nAssistant: c", "begins with the assistant"),
        ("\n\nHuman: q\n\nAssistant:\n\nHuman: x", "turn 2 of the transcript is empty"),
        ("\n\nHuman: q", "ends without an answer"),
        ("\n\nHuman: other\n\nAssistant: a", "the same beginning"),
        ("\n\nHuman: q\n\nAssistant: b", "are the same"),
    ],
)
def test_bad_transcripts(chosen: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make("transcripts", chosen=chosen, rejected="\n\nHuman: q\n\nAssistant: b")


def test_everyone_is_told_what_preferences_are_for() -> None:
    for columns in (["prompt", "chosen", "rejected"], ["chosen", "rejected"]):
        for name in (None, sniff(columns)[0]):
            assert any("learns the chosen answers" in note for note in resolve(columns, {}, name=name).notes)


# -------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("columns", "name", "rename"),
    [
        (["text", "label", "fine_label"], "labels", {}),
        (["text", "intent"], "labels", {"intent": "label"}),
        (["Review", "Stars"], "labels", {"Review": "text", "Stars": "label"}),
        (["文本", "标签"], "labels", {"文本": "text", "标签": "label"}),
        (["问题", "答案"], "qa", {"问题": "question", "答案": "answer"}),
        (["指令", "输入", "输出"], "alpaca", {"指令": "instruction", "输入": "input", "输出": "output"}),
        (["sentence1", "sentence2", "label"], "labels", {"sentence1": "text", "sentence2": "text_pair"}),
        (["instruction", "input", "output"], "alpaca", {}),
        (["input", "output"], "pairs", {"input": "prompt", "output": "response"}),
        (["content"], "text", {"content": "text"}),
        (["text", "id", "url"], "text", {}),
        (["messages", "text"], "chat", {}),
        (["id", "conversations"], "sharegpt", {}),
        (["prompt", "chosen", "rejected"], "preference", {}),
        (["system", "question", "chosen", "rejected"], "preference", {"question": "prompt"}),
        (["instruction", "input", "chosen", "rejected"], "preference", {"instruction": "prompt"}),
        (["chosen", "rejected"], "transcripts", {}),
        (["premise", "hypothesis", "label"], "labels", {"premise": "text", "hypothesis": "text_pair"}),
        (["source", "target"], "pairs", {"source": "prompt", "target": "response"}),
        (["article", "highlights", "id"], "pairs", {"article": "prompt", "highlights": "response"}),
        (["question", "response"], "pairs", {"question": "prompt"}),
    ],
)
def test_sniff(columns: list[str], name: str, rename: dict[str, str]) -> None:
    found = resolve(columns, {})
    assert (found.format, found.rename) == (name, rename)
    for column in rename:
        assert any(repr(column) in note for note in found.notes)


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["text", "category", "sentiment"], "data.columns.label=category"),
        (["text", "lable"], "data.columns.label=lable"),
        (["question", "answers"], "data.columns"),
        (["id", "content"], "data.columns.text=content"),
        (["x", "y"], "data.columns"),
        (["question", "answer", "prompt", "response"], "data.format="),
    ],
)
def test_what_is_not_clear_is_asked(columns: list[str], hint: str) -> None:
    with pytest.raises(DataError) as caught:
        sniff(columns)
    assert hint in caught.value.hint


def test_no_format_fits_tells_columns_and_needs() -> None:
    with pytest.raises(DataError) as caught:
        sniff(["x", "y"])
    assert "'x', 'y'" in caught.value.problem
    for name in FORMATS:
        assert f"{name}: " in caught.value.problem


def test_the_next_best_format_is_named() -> None:
    notes = resolve(["review", "stars", "output"], {}).notes
    assert "data.format=pairs" not in notes[0]
    notes = resolve(["sentence", "category"], {}).notes
    assert notes[0].startswith("format labels: the file has the columns sentence, category")
    notes = resolve(["text", "label"], {}).notes
    assert notes[0].endswith("(data.format=text would read text, for task lm)")
    notes = resolve(["question", "answer"], {}).notes
    assert notes[0].endswith("the file has the columns question, answer")


def test_a_mapping_wins() -> None:
    found = resolve(["text", "summary", "label"], {"text": "summary"})
    assert (found.format, found.rename) == ("labels", {"summary": "text"})
    assert resolve(["a", "b"], {"question": "a", "answer": "b"}).format == "qa"


def test_mapping_errors() -> None:
    with pytest.raises(ConfigError, match="no format has a column 'lable'"):
        sniff(["text", "label"], {"lable": "label"})
    with pytest.raises(DataError, match="'intt'") as caught:
        sniff(["text", "intent"], {"label": "intt"})
    assert "'intent'" in caught.value.hint
    assert sniff(["text", "label"], {"label": "intent"})[0] == "labels"  # this split has the usual name


def test_a_named_format_and_its_missing_column() -> None:
    with pytest.raises(DataError, match="'label'") as caught:
        resolve(["text", "y"], {}, name="labels", where="f.csv:2")
    assert caught.value.where == "f.csv:2"
    assert "data.columns.label=NAME" in caught.value.hint
    with pytest.raises(DataError, match="is the column 'labe' the label") as caught:
        resolve(["text", "labe"], {}, name="labels")
    assert "data.columns.label=labe" in caught.value.hint
    with pytest.raises(ConfigError, match="unknown format"):
        resolve(["text"], {}, name="lables")
    assert resolve(["question"], {}, name="qa", need_target=False).format == "qa"
    assert resolve(["instruction"], {}, need_target=False).format == "alpaca"


def test_another_task_is_named_where_the_format_is_not_the_tasks() -> None:
    with pytest.raises(DataError, match="format qa") as caught:
        resolve(["question", "answer"], {}, allowed=["text"])
    assert "task=instruct" in caught.value.hint


def test_every_instance_is_a_row(tmp_path: Path) -> None:
    rows = [
        {"id": "seed_0", "instruction": "Add.",
         "instances": [{"input": "1 1", "output": "2"}, {"input": "2 2", "output": "4"}]},
        {"id": "seed_1", "instruction": "Say hi.", "instances": [{"input": "", "output": "hi"}]},
        {"id": "seed_2", "instruction": "Broken.", "instances": [{"input": "x", "output": ""}, "y"]},
        {"id": "seed_3", "instruction": "Half.", "instances": [{"input": "x", "output": ""}, {"output": "y"}]},
        *({"id": f"s{i}", "instruction": f"Name {i}.", "instances": [{"input": str(n), "output": "z"} for n in (i, -i)]}
          for i in range(1, 9)),
    ]  # fmt: skip
    file = tmp_path / "seed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_dataset(DataConfig(train=str(file), on_bad_row="drop", holdout=0.2), None, 1)
    assert (found.format, found.task) == ("self_instruct", "instruct")
    buckets = {entry.where.rpartition("/")[2]: entry.bucket.partition(":")[0] for entry in found.ledger.entries()}
    assert len(buckets) == 23
    dropped = {where for where, bucket in buckets.items() if bucket == "dropped"}
    assert dropped == {"seed.jsonl:3", "seed.jsonl#2:3", "seed.jsonl:4"}
    said = {e.where.rpartition("/")[2]: [m.content for m in e.messages] for part in found.splits.values() for e in part}
    assert said["seed.jsonl#2:1"] == ["Add.\n\n2 2", "4"]
    assert said["seed.jsonl:2"] == ["Say hi.", "hi"]
    assert said["seed.jsonl#2:4"] == ["Half.", "y"]
    sides = {name: {example.group for example in part} for name, part in found.splits.items()}
    assert found.splits["validation"] and not sides["train"] & sides["validation"]
