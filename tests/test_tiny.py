"""The tiny models are what tests take them for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from small import digests, one_thread  # noqa: F401
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


def test_the_same_folder_in_every_process(tmp_path: Path) -> None:
    program = "import sys, tiny, pathlib; [b(pathlib.Path(sys.argv[1]) / n) for n, b in tiny.BUILDERS.items()]"
    for name in "ab":
        folder = str(tmp_path / name)
        subprocess.run([sys.executable, "-c", program, folder], cwd=Path(__file__).parent, check=True, timeout=120)
    one, two = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert one == two
    assert len(one) > 3 * len(MODELS)
