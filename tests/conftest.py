"""Fixtures that every test may use: tiny models, and a cache of tunery's own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave the user's cache alone, except those that need the real packs from it."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_llama(models_folder: Path) -> Path:
    return tiny.tiny_llama(models_folder / "llama")


@pytest.fixture(scope="session")
def tiny_gpt2(models_folder: Path) -> Path:
    return tiny.tiny_gpt2(models_folder / "gpt2")


@pytest.fixture(scope="session")
def tiny_bert(models_folder: Path) -> Path:
    return tiny.tiny_bert(models_folder / "bert")


@pytest.fixture(scope="session")
def tiny_roberta(models_folder: Path) -> Path:
    return tiny.tiny_roberta(models_folder / "roberta")


@pytest.fixture(scope="session")
def tiny_t5(models_folder: Path) -> Path:
    return tiny.tiny_t5(models_folder / "t5")


@pytest.fixture(scope="session")
def tiny_gguf(models_folder: Path, tiny_llama: Path) -> Path:
    return tiny.tiny_gguf(tiny_llama, models_folder / "tiny.gguf")
