"""The tiny models are what tests take them for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from small import one_thread  # noqa: F401
from suite_cells import MODELS
from tunery.data.batch import collate
from tunery.models.attention import choose_attention
from tunery.protocols import Encoded

assert MODELS.keys() == tiny.BUILDERS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_kinds_and_attention_at_every_length(model: str, request: pytest.FixtureRequest) -> None:
    """Rows of any length compute, by the kernel that is chosen for them as by the one the model was loaded with."""
    base = tiny.base_of(request.getfixturevalue(f"tiny_{model}"))
    assert base.family == MODELS[model]
    net, _ = base.load("backbone")
    for length in (20, 200):
        batch = collate([Encoded([3 + i % 50 for i in range(n)]) for n in (length, length // 2)], 0)
        batch.pop("labels", None)
        if base.family == "encoder-decoder":
            batch["decoder_input_ids"] = batch["input_ids"]
        real = batch["attention_mask"].bool()
        with torch.no_grad():
            expected = net(**batch).last_hidden_state[real]
            choose_attention(net, batch["input_ids"].shape, torch.device("cpu"))
            found = net(**batch).last_hidden_state[real]
        if base.family != "encoder-decoder":  # whose decoder here reads padding
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert found.isfinite().all()


def test_the_same_folder_every_time(tmp_path: Path) -> None:
    one, two = (tiny.tiny_qwen(tmp_path / name) for name in "ab")
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
