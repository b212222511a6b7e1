"""What a search comes to: the best settings as a configuration file, and their score on the test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunery import config as configuration
from tunery.config import Config
from tunery.decide import search_report
from tunery.decide import trial as trials
from tunery.decide.settings import configured
from tunery.decide.study import Study
from tunery.errors import ModelError
from tunery.rundir import read_json, write_json, write_text

FILE = "best.yaml"


def conclude(folder: Path, record: dict[str, Any], study: Study) -> dict[str, Any]:
    """Write ``best.yaml``, train it with the test rows if there are any, and complete ``search.json``.

    Raises ModelError: no trial was completed.
    """
    best = study.best()
    results = study.results()
    if best is None:
        problem = next((r["problem"] for r in results if r["problem"]), "every trial was stopped before its end")
        raise ModelError(f"no trial was completed: {problem}", f"see {folder / 'logs'}", str(folder))
    config = configured(record["config"], best["settings"])
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": None})})
    title = f"Best of {len(results)} trials: {record['monitor']} {best['value']:.4f} on the validation rows"
    write_text(folder / FILE, f"# {title} (trial {best['trial']} of {folder.name}).\n{configuration.dump(config)}")
    here = best["place"] in (None, study.place)
    record |= {"results": results, "best": best, "importance": study.importance()}
    if config.data.test and here:
        record["test"] = _test(folder, config, record.get("test"), best)
    record["status"] = "completed"
    write_json(folder / "search.json", record)
    if config.run.report:
        search_report.write(folder, record)
    return summary(folder)


def _test(folder: Path, config: Config, known: dict[str, Any] | None, best: dict[str, Any]) -> dict[str, Any]:
    """Train the best settings as ``tunery train best.yaml`` would, in ``FOLDER/best-TRIAL``; once for each trial."""
    from tunery.run.records import say

    if known and known["trial"] == best["trial"] and not known.get("problem"):
        return known
    say("training the best settings once more, to score them on the test rows")
    name = f"best-{best['trial']}"
    path = trials.latest(folder / name)
    log = folder / "logs" / "best.log"
    status = trials.standing(path)
    if status in ("interrupted", "running"):
        outcome = trials.go_on(path, log=log)
    elif status == "completed":
        outcome = trials.Outcome("completed", path)
    else:
        run = config.run.model_copy(update={"dir": str(folder), "name": name})
        outcome = trials.start(config.model_copy(update={"run": run}), log=log)
    if outcome.status != "completed" or outcome.run is None:
        say(f"the best settings could not be scored on the test rows: {outcome.problem or outcome.status}")
        return {"trial": best["trial"], "problem": outcome.problem or outcome.status}
    manifest = outcome.manifest
    return {
        "trial": best["trial"],
        "run": outcome.run.name,
        "metrics": manifest["test_metrics"],
        "base": manifest.get("base_test_metrics"),
        "baselines": manifest.get("test_baselines") or {},
    }


def summary(folder: Path) -> dict[str, Any]:
    """What ``search --json`` prints. Raises ModelError: damaged."""
    record = read_json(folder / "search.json")
    best, test = record.get("best"), record.get("test") or {}
    where = test.get("run") or (best or {}).get("run")
    return {
        "search": str(folder),
        "status": record["status"],
        "monitor": record["monitor"],
        "higher_is_better": record["higher_is_better"],
        "best": best and {key: best[key] for key in ("trial", "value", "settings", "place")},
        "config": str(folder / FILE) if (folder / FILE).is_file() else None,
        "run": str(folder / where) if where and (folder / where).is_dir() else None,
        "report": str(folder / "report.html") if (folder / "report.html").is_file() else None,
        "test": test or None,
        "importance": record.get("importance") or {},
        "space": record["space"],
        "trials": record["results"],
        "seconds": record.get("seconds_spent"),
    }
