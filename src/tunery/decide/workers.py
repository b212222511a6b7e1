"""The workers of a search: threads that take trials from the study and train each in a process of its own."""

from __future__ import annotations

import math
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunery.config import Config
from tunery.decide import trial as trials
from tunery.decide.settings import configured
from tunery.decide.storage import patiently
from tunery.decide.study import Job, Lost, Study
from tunery.decide.trial import Outcome
from tunery.errors import Interrupted, ModelError, TuneryError
from tunery.models import machine
from tunery.run.records import say
from tunery.rundir import RunDir, read_jsonl, write_json
from tunery.train.progress import Evaluation, StopRequest, stop_on_signals

Status = Literal["completed", "pruned", "failed"]
POLL = 1.0
"""Seconds between two looks at the study while others train its last trials."""
FAILURES = 5
"""Trials that fail before any other has ended: then something is wrong that no settings can help."""


@dataclass
class _Watched:
    """What is known of a trial while it runs."""

    pruned: bool = False
    lost: bool = False
    seconds: float = 0.0
    problem: TuneryError | None = None


class Workers:
    """All workers of this process.

    Args:
        folder: of the search.
        record: what ``search.json`` holds; kept up to date there.
        began: when this process began, by the monotonic clock.
    """

    def __init__(self, folder: Path, record: dict[str, Any], study: Study, began: float) -> None:
        self.folder, self.record, self.study, self.began = folder, record, study, began
        self.before = record.get("seconds_spent", 0.0)
        self.stop = threading.Event()
        self.problem: BaseException | None = None
        self._writing = threading.Lock()
        self._waiting = False

    # ------------------------------------------------------------------------------------------ the threads

    def work(self) -> None:
        """Until there are no more trials. Raises Interrupted after a signal, and what stopped a worker."""
        cpus = machine.cpu_numbers()
        count = self.record["workers"]
        if count > len(cpus):
            say(f"{count} workers share {len(cpus)} CPUs: they will wait for each other")
        parts = machine.shares(count, cpus)
        threads = [threading.Thread(target=self._work, args=(part,), daemon=True) for part in parts]
        self.write("running")
        with stop_on_signals() as request:
            for thread in threads:
                thread.start()
            for thread in threads:
                self._join(thread, request)
        if self.problem is not None:
            self.write("failed")
            raise self.problem
        if self.stop.is_set():
            self.write("interrupted")
            raise Interrupted("the search was stopped", f"tunery search --resume {self.folder}", str(self.folder))

    def _join(self, thread: threading.Thread, request: StopRequest) -> None:
        """A trial gets time to write its checkpoint; one that takes longer dies with this process."""
        until = math.inf
        while thread.is_alive() and time.monotonic() < until:
            thread.join(0.2)
            if request.requested is not None and not self.stop.is_set():
                self.stop.set()
            if self.stop.is_set() and until == math.inf:
                until = time.monotonic() + trials.GRACE

    def _work(self, cpus: list[int]) -> None:
        try:
            while not self.stop.is_set():
                job = patiently(lambda: self.study.take(closed=self._closed()))
                if job is None:
                    return
                if isinstance(job, str):
                    self._tell_waiting()
                    self.stop.wait(POLL)
                    continue
                self._train(job, cpus)
                self.write("running")
                self._give_up()
        except BaseException as error:  # a thread's own end would go unseen
            self.problem = self.problem or error
            self.stop.set()

    def _closed(self) -> bool:
        seconds = self.record["seconds"]
        return seconds is not None and time.monotonic() - self.began >= seconds

    def _tell_waiting(self) -> None:
        running = [record for record in self.study.results() if record["status"] == "running"]
        if not self._waiting and any(record["place"] not in (None, self.study.place) for record in running):
            self._waiting = True
            say(f"waiting for {len(running)} trials of other machines")

    def _give_up(self) -> None:
        results = self.study.results()
        ended = [record for record in results if record["status"] in ("completed", "pruned", "failed")]
        if len(ended) >= FAILURES and all(record["status"] == "failed" for record in ended):
            first = next(record for record in ended if record["problem"])
            hint = f"see {self.folder / 'logs'}; tunery train shows whether the configuration itself works"
            raise ModelError(f"the first {len(ended)} trials failed: {first['problem']}", hint, str(self.folder))

    # ------------------------------------------------------------------------------------------- one trial

    def _train(self, job: Job, cpus: list[int]) -> None:
        watched = _Watched()
        with self.study.beating(job.number):
            try:
                outcome = self._run(job, cpus, watched)
                if watched.problem is not None:
                    raise watched.problem
                self._end(job, outcome, watched)
            except Lost:
                say(f"trial {job.number}: another worker has taken it up")
            except TuneryError as error:
                if watched.problem is not None:
                    raise
                self._finish(job, "failed", None, watched, str(error))

    def _run(self, job: Job, cpus: list[int], watched: _Watched) -> Outcome:
        """Raises ConfigError: settings that do not go together."""
        config = self._config(job)
        log = self.folder / "logs" / f"{config.run.name}.log"
        log.parent.mkdir(exist_ok=True)

        def watch(evaluation: Evaluation) -> bool:
            watched.seconds = evaluation.seconds
            if self.stop.is_set():
                return True
            try:
                watched.pruned = self.study.report(
                    job.number, _evaluations(evaluation.run), evaluation.metrics[self.record["monitor"]]
                )
            except Lost:
                watched.lost = True
            except TuneryError as error:
                watched.problem = error
            return watched.pruned or watched.lost or watched.problem is not None

        begun = self.folder / (job.run or str(config.run.name))
        status = trials.standing(begun)
        if status is None:
            self.study.note(job.number, run=config.run.name)
            return trials.start(config, watch=watch, cpus=cpus, log=log)
        if status == "completed":  # only the word about it was lost
            return Outcome("completed", begun)
        say(f"trial {job.number}: going on where its last checkpoint was written")
        return trials.go_on(begun, watch=watch, cpus=cpus, log=log)

    def _config(self, job: Job) -> Config:
        """What takes time and decides nothing is left out: the base's scores, baselines, answers, the test rows."""
        found = configured(self.record["config"], job.settings)
        place = {"dir": str(self.folder), "name": f"trial-{job.number:03d}", "report": False}
        run = found.run.model_copy(update=place)
        scoring = found.eval.model_copy(update={"base": False, "baselines": False, "generate_rows": 0})
        data = found.data.model_copy(update={"test": None})
        return found.model_copy(update={"run": run, "eval": scoring, "data": data})

    def _end(self, job: Job, outcome: Outcome, watched: _Watched) -> None:
        manifest = outcome.manifest
        killed = outcome.status == "failed" and (
            manifest.get("status") == "running" or outcome.problem.startswith(trials.SILENT)
        )
        if watched.lost:
            raise Lost
        if outcome.run is not None and outcome.run.name != f"trial-{job.number:03d}":
            self.study.note(job.number, run=outcome.run.name)
        if outcome.status == "completed":
            value = manifest["metrics"].get(self.record["monitor"])
            if value is None or not math.isfinite(value):
                self._finish(job, "failed", None, watched, f"its {self.record['monitor']} is {value}")
            else:
                watched.seconds = manifest.get("seconds", watched.seconds)
                self._finish(job, "completed", value, watched)
        elif outcome.status == "paused" and watched.pruned:
            self._finish(job, "pruned", None, watched)
        elif killed or outcome.status in ("paused", "interrupted"):
            self.study.release(job.number, died=not self.stop.is_set())
            if not self.stop.is_set():
                say(f"trial {job.number}: its process was killed; it is taken up again")
            return
        else:
            self._finish(job, "failed", None, watched, outcome.problem)
        if outcome.run is not None and outcome.status != "failed":  # masters and moments of twenty runs fill a disk
            shutil.rmtree(RunDir(outcome.run).checkpoints, ignore_errors=True)

    def _finish(
        self, job: Job, status: Status, value: float | None, watched: _Watched, problem: str | None = None
    ) -> None:
        self.study.finish(job.number, status, value, seconds=round(watched.seconds, 1), problem=problem)
        best = self.study.best()
        said = problem or ("" if value is None else f"{self.record['monitor']} {value:.4f}")
        shown = ", ".join(f"{key}={each}" for key, each in job.settings.items())
        champion = f" [best {best['value']:.4f}, trial {best['trial']}]" if best else ""
        say(f"trial {job.number} {status}{': ' * bool(said)}{said}{champion}  {shown}")

    # ----------------------------------------------------------------------------------------- the record

    def write(self, status: str) -> None:
        """``search.json`` as things stand."""
        with self._writing:
            spent = round(self.before + time.monotonic() - self.began, 1)
            self.record |= {"status": status, "seconds_spent": spent, "results": self.study.results()}
            write_json(self.folder / "search.json", self.record)


def _evaluations(run: Path) -> int:
    """How many there have been, those before an interruption too."""
    return sum("validation" in record for record in read_jsonl(RunDir(run).metrics_file, torn=True))
