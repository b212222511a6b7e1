"""The Dockerfile, read as a linter would: there is no docker here to build it with."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunery.cli.serve import command

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and value of each, without comments, lines that go on joined."""
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", plain)
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.splitlines() if line.strip()]


FOUND = instructions(TEXT)


def values(name: str) -> list[str]:
    return [value for key, value in FOUND if key == name]


def exec_form(value: str) -> list[str]:
    """The JSON list of an instruction: no shell stands between docker and the program."""
    found = json.loads(value[value.index("[") :])
    assert all(isinstance(word, str) for word in found)
    return list(found)


def test_images_and_packages_are_pinned() -> None:
    for image in values("FROM"):
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+( AS \w+)?", image)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    installs = [part for value in values("RUN") for part in value.split("&&") if " install " in part]
    assert len(installs) == 2
    for install in installs:
        assert "-c constraints.txt" in install
    assert next(word for word in shlex.split(installs[0]) if word.startswith("torch==")) in constraints


def test_it_runs_as_nobody_and_has_no_model_inside() -> None:
    last = max(place for place, (key, _) in enumerate(FOUND) if key == "FROM")
    final = FOUND[last:]
    users = [place for place, (key, _) in enumerate(final) if key == "USER"]
    assert users and re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", final[users[-1]][1])
    assert not [key for key, _ in final[users[-1] :] if key in ("RUN", "COPY")]
    assert not values("ADD")
    copied = [word for value in values("COPY") for word in shlex.split(value)[:-1] if not word.startswith("--")]
    assert set(copied) == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "src", "/opt/tunery"}
    assert "token" not in " ".join(values("ENV") + values("ARG")).lower()


def test_what_is_not_copied_is_not_sent_either() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert kept == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "src"}
    for name in kept:
        assert (ROOT / name).exists()


def test_it_starts_a_server_that_asks_for_a_token_and_can_be_stopped() -> None:
    program, verb, *arguments = exec_form(values("ENTRYPOINT")[-1])
    assert (program, verb) == ("tunery", "serve")
    given = command.make_context("serve", [*arguments, "support"]).params
    assert given["host"] == "0.0.0.0" and given["token_file"] == Path("/run/secrets/tunery-token")
    assert str(given["port"]) == values("EXPOSE")[-1]
    assert values("STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_asks_the_server_itself() -> None:
    (check,) = values("HEALTHCHECK")
    program, option, source = exec_form(check[check.index("CMD") :])
    assert (program, option) == ("python", "-c")
    compile(source, "HEALTHCHECK", "exec")
    address = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", source)
    assert address and address[1] == values("EXPOSE")[-1]
    pytest.importorskip("fastapi", reason="fastapi is not installed: tunery[serve]")
    served = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "tunery" / "serve").glob("*.py"))
    assert f'"{address[2]}"' in served
