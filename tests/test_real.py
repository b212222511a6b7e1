"""The whole path on the real packs and the project's own examples, in a minute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tunery
from tunery.models.load import open_base

pytestmark = pytest.mark.real
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> tunery.Run:
    """smollm2 after a few steps on the shop's questions."""
    folder = tmp_path_factory.mktemp("support")
    rows = (EXAMPLES / "support.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(rows[:32]), encoding="utf-8")
    (folder / "validation.jsonl").write_text("".join(rows[32:40]), encoding="utf-8")
    return tunery.train(
        folder / "train.jsonl",
        model="smollm2",
        method="lora",
        data={"validation": str(folder / "validation.jsonl")},
        train={"max_steps": 8, "lr": 1e-3, "patience": None},
        eval={"generate_rows": 4, "max_new_tokens": 12},
        run={"dir": str(folder / "runs")},
    )


def test_a_few_steps_lower_the_loss_of_the_real_model(support: tunery.Run) -> None:
    summary = support.summary()
    assert summary["metrics"]["loss"] < 0.9 * summary["base"]["loss"]
    assert summary["status"] == "completed"
    answers = (support.path / "eval" / "validation" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 4
    assert all(json.loads(line)["prediction"] for line in answers)


def test_plain_peft_gives_the_same_logits(support: tunery.Run) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = support.tuned.base.folder
    # Rounded to what it was trained on, then compared in fp32: the difference is then that of the functions.
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=support.tuned.base.dtype)
    theirs = PeftModel.from_pretrained(plain, support.path / "model").eval().float()
    ours = support.tuned.model.float()
    ids = torch.tensor([support.manifest["probe"]["ids"]])
    with torch.inference_mode():
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_a_real_classifier_beats_the_majority(tmp_path: Path) -> None:
    run = tunery.train(
        EXAMPLES / "intents.csv",
        model="minilm",
        task="classify",
        method="freeze",
        **{"method.layers": 0},
        train={"epochs": 4, "lr": 1e-2, "batch_size": 16},
        run={"dir": str(tmp_path)},
    )
    assert run.metrics["accuracy"] > 0.6, "eight intents: chance is 0.125"
    best = run.predict(["where is my parcel"])[0]
    assert best.probabilities is not None
    assert sum(best.probabilities.values()) == pytest.approx(1, abs=1e-3)


def test_the_mean_is_the_default_of_a_sentence_encoder() -> None:
    from tunery.config import ModelConfig

    assert open_base(ModelConfig(name="minilm")).pooling() == "mean"
