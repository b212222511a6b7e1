"""``Run``: what the Python API returns and every verb after ``train`` works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tunery import baselines, scoring
from tunery import config as configuration
from tunery.data import soft
from tunery.data.inputs import FileNames, label
from tunery.data.ledger import Ledger
from tunery.data.read import paths
from tunery.data.rows import Rows
from tunery.errors import ConfigError, DataError
from tunery.evaluate import Settings, answer, evaluate, loss_and_outputs, prompt_of, readable
from tunery.generate.engine import Sampling, generate
from tunery.generate.text import Decoder
from tunery.models import machine
from tunery.protocols import Encoded, Example, Message, Prediction
from tunery.report import pages
from tunery.run import aliases, beside, build
from tunery.run import train as training
from tunery.run.cleaning import Cleaned, Cleaning
from tunery.run.dataset import load_examples, refuse_bad
from tunery.run.encode import encode_split
from tunery.run.records import records, say, write_results
from tunery.rundir import RunDir

EVALUATION = "evaluation"
Inputs = str | Sequence[str] | Sequence[Mapping[str, Any]]


class Run:
    """A finished run. The model is loaded when it is first needed.

    >>> run = tunery.train("reviews.csv", model="minilm", task="classify", method="lora")  # doctest: +SKIP
    >>> run.predict(["the best hotel we ever stayed in"])  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.dir = RunDir.open(aliases.resolve(path))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.manifest.get('status')!r})"

    @property
    def path(self) -> Path:
        return self.dir.path

    @property
    def manifest(self) -> dict[str, Any]:
        return self.dir.manifest()

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers on the validation rows."""
        return dict(self.manifest.get("metrics") or {})

    @cached_property
    def config(self) -> configuration.Config:
        return self.dir.config()

    @cached_property
    def cleaning(self) -> Cleaning:
        """What new inputs go through: the steps that the training rows went through."""
        return Cleaning(self.config.data.clean)

    @cached_property
    def tuned(self) -> build.Tuned:
        """The model with its adapters, tokenizer and task. Raises ModelError."""
        machine.prepare()
        return build.load(self.dir)

    def summary(self) -> dict[str, Any]:
        """What ``train --json`` prints."""
        m = self.manifest
        found = {
            "run": str(self.path),
            "status": m.get("status"),
            **{key: m.get(key) for key in ("steps", "seconds", "tokens_per_second", "peak_memory_bytes")},
            "trainable_parameters": m.get("parameters", {}).get("trainable"),
            "metrics": m.get("metrics"),
            "base": m.get("base_metrics"),
            "baselines": m.get("baselines") or {},
            "verdicts": m.get("verdicts") or [],
            "report": str(report) if (report := self.path / pages.HTML).is_file() else None,
            "forgetting": m.get("forgetting"),
            "overfitting": m.get("overfitting"),
            "parent": m.get("parent"),
            "retention": m.get("retention"),
        }
        if m.get("test_metrics"):
            found |= {"test_metrics": m["test_metrics"], "base_test": m.get("base_test_metrics")}
            found["test_baselines"] = m.get("test_baselines") or {}
        return found

    # ----------------------------------------------------------------------------------------- numbers

    def evaluate(
        self,
        data: str | Path | Sequence[str | Path] | None = None,
        metrics: Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        name: str | None = None,
        progress: Callable[[int], None] | None = None,
        answers: int | None = None,
    ) -> dict[str, Any]:
        """Score the model on new rows, or on the run's own test (else validation) files; where the task writes text,
        ``answers`` rows of them are answered (None: all).

        Returns ``{"run", "data", "rows", "metrics", "baselines", "verdicts", "forgetting", "confusion",
        "truncated", "dropped"}``, forgetting being what the training found; writes ``eval/NAME/`` into the run.
        Raises DataError, ConfigError (a metric that does not fit the task).
        """
        if metrics:
            scoring.check(metrics, self.tuned.task.kinds)
        files = data or self.config.data.test or self.config.data.validation
        if files is None:
            raise ConfigError("the run has no test or validation files", "name a file with --data", "--data")
        names = paths(files)
        settings = replace(self._settings(metrics, max_new_tokens), generate_rows=answers)
        examples, ledger = self._read(files, need_target=True)
        tuned = self.tuned
        split = encode_split(
            EVALUATION, examples, tuned.task, tuned.tokenizer, self.config.data, settings.max_length, ledger
        )
        for note in split.told(EVALUATION, settings.max_length):
            say(note)
        results = evaluate(tuned.model, tuned.task, tuned.tokenizer, split.examples, split.rows, settings, progress)
        known = beside.of(self.dir, "test") if data is None and metrics is None and self.config.data.test else {}
        simple = known or beside.at_evaluation(self.dir, self.config, tuned.task, split.examples, metrics)
        write_results(self.dir, name or label(files), split, tuned.task, results, simple)
        line = baselines.verdict(tuned.task, results.metrics, simple, "evaluated")
        return {
            "run": str(self.path),
            "data": names[0] if len(names) == 1 else names,
            "rows": len(split.examples),
            "metrics": results.metrics,
            "baselines": simple,
            "verdicts": [line] if line else [],
            "forgetting": self.manifest.get("forgetting"),
            "confusion": results.confusion,
            "truncated": split.truncated,
            "dropped": ledger.summary()["dropped"],
        }

    def row_losses(self, files: str | Sequence[str]) -> list[tuple[Example, float, int]]:
        """Each row of the files with the sum of its losses and the number of its targets (tokens, or 1).

        Row by row, as a batch only tells the sum of all its rows: slower than ``evaluate``.
        """
        examples, ledger = self._read(files, need_target=True)
        tuned, settings = self.tuned, self._settings(None, None)
        split = encode_split(
            EVALUATION, examples, tuned.task, tuned.tokenizer, self.config.data, settings.max_length, ledger
        )
        totals, counts = [0.0] * len(split.examples), [0] * len(split.examples)
        for row in readable(tuned.model, split.rows):
            found = loss_and_outputs(tuned.model, tuned.task, [row], tuned.tokenizer.pad_token_id or 0, settings)
            totals[row.row] += found[0]
            counts[row.row] += found[1]
        return list(zip(split.examples, totals, counts, strict=True))

    # --------------------------------------------------------------------------------------------- use

    def predict(
        self, inputs: Inputs, sampling: Sampling | None = None, progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """One prediction an input, in order.

        Args:
            inputs: texts (questions for a run that generates), or rows as in the training file.
        """
        given: list[Any] = [inputs] if isinstance(inputs, str | Mapping) else list(inputs)
        return self.predict_examples([self._example(item, i) for i, item in enumerate(given)], sampling, progress)

    def predict_examples(
        self,
        examples: Sequence[Example],
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
        first: int = 0,
    ) -> list[Prediction]:
        """``first``: number of the first example, where these are a part of more."""
        tuned, settings = self.tuned, self._settings(None, None)
        if tuned.task.output == "text":
            if sampling is not None:
                settings = replace(settings, sampling=sampling)
            return answer(tuned.model, tuned.task, tuned.tokenizer, examples, settings, progress, first)
        rows: list[Encoded] = []
        for number, example in enumerate(examples):
            unlabelled = replace(example, label=None, tags=())
            windows = soft.encode(tuned.task, unlabelled, tuned.tokenizer, settings.max_length)
            for row in windows:
                row.row = number
            rows += windows
        if cut := sum(row.truncated for row in rows):
            say(f"{cut} of {len(examples)} texts cut to {settings.max_length} tokens")
        if not rows:
            return []
        read, pad = readable(tuned.model, rows), tuned.tokenizer.pad_token_id or 0
        found = loss_and_outputs(tuned.model, tuned.task, read, pad, settings)[2]
        return tuned.task.combine(read, found, examples)

    def predict_texts(self, texts: Sequence[str], sampling: Sampling | None = None) -> list[dict[str, Any]]:
        """As ``predict``, with a record a text."""
        examples = [self._example(text, i) for i, text in enumerate(texts)]
        return records(examples, self.predict_examples(examples, sampling), self.tuned.task)

    def predict_file(
        self,
        files: str | Sequence[str],
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[dict[str, Any]]:
        """A record a row of the files, with its place, input and prediction."""
        examples, _ = self._read(files, need_target=False)
        return records(examples, self.predict_examples(examples, sampling, progress), self.tuned.task)

    def batch(
        self,
        files: str | Sequence[str],
        output: str | Path,
        sampling: Sampling | None = None,
        restart: bool = False,
        on_bad_row: Literal["record", "error"] = "record",
    ) -> dict[str, Any]:
        """Write a record a row of large files to ``output`` (JSONL); called again after an interruption it goes on.

        See ``tunery.run.batch.score``.
        """
        from tunery.run import batch

        return batch.score(self, files, Path(output), sampling, restart, on_bad_row)

    def generate(
        self,
        messages: str | Sequence[Message],
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """The answer to a conversation; ``on_text`` gets it piece by piece.

        Raises ConfigError for a run that does not generate text.
        """
        tuned, settings = self.tuned, self._settings(None, None)
        if tuned.task.output != "text":
            raise ConfigError(f"a run of task {tuned.task.name} does not generate text", "use predict")
        turns = (Message("user", messages),) if isinstance(messages, str) else tuple(messages)
        for turn in turns:
            _refuse_broken(turn.content, "<conversation>")
        turns = tuple(self.cleaning.message(turn) for turn in turns)
        example = Example("<conversation>", 1, messages=turns, text=turns[-1].content)
        prompt = prompt_of(tuned.model, tuned.task, tuned.tokenizer, example, settings)
        decoder, begun = Decoder(tuned.tokenizer), False

        def more(_index: int, token: int) -> None:
            nonlocal begun
            piece = decoder.add(token)
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            if on_text and piece:
                on_text(piece)

        chosen = sampling or settings.sampling
        ids = generate(tuned.model, [prompt], tuned.task.stop_ids(tuned.tokenizer), chosen, on_token=more)[0]
        return str(tuned.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def export(self, kind: str, **options: Any) -> dict[str, Any]:
        """Write the model in a form that other programs load: ``run.export("merged")``. See ``tunery.export``."""
        from tunery.export.publish import export

        return export(self, kind, **options)

    # ----------------------------------------------------------------------------------------- helpers

    def _settings(self, metrics: Sequence[str] | None, max_new_tokens: int | None) -> Settings:
        settings = training.settings(self.config, self.tuned.base, None)
        if metrics:
            settings = replace(settings, metrics=list(metrics))
        if max_new_tokens:
            settings = replace(settings, sampling=Sampling(max_new_tokens=max_new_tokens))
        return settings

    def _read(self, files: FileNames, need_target: bool) -> tuple[Rows, Ledger]:
        data = self.config.data
        cleaned = Cleaned()
        examples, bad, _, notes = load_examples(files, data, need_target, cleaned)
        refuse_bad(bad, len(examples) + len(bad) + len(cleaned.dropped), data.on_bad_row)
        ledger = Ledger()
        for example in examples:
            ledger.add(example.where, f"used:{EVALUATION}")
        for row in bad:
            ledger.add(row.where, "dropped:bad", row.problem)
        cleaned.mark(ledger, EVALUATION)
        for note in notes:
            say(note)
        return examples, ledger

    def _example(self, item: Any, index: int) -> Example:
        if isinstance(item, str):
            _refuse_broken(item, f"<input>:{index + 1}")
            return self.cleaning.one(Example("<input>", index + 1, messages=(Message("user", item),), text=item))
        from tunery import registry
        from tunery.protocols import Row

        if not isinstance(item, Mapping):
            raise DataError(f"an input is a text or a row, not {type(item).__name__}", "", f"<input>:{index + 1}")
        form = registry.get("format", self.config.data.format or "")()
        columns = {theirs: ours for ours, theirs in self.config.data.columns.items()}
        values = {columns.get(str(k), str(k)): v for k, v in item.items()}
        return self.cleaning.one(form.example(Row(values, "<input>", index + 1), need_target=False))


def _refuse_broken(text: str, where: str) -> None:
    """Raises DataError for bytes of another encoding that came as lone surrogates (arguments, standard input)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError("not UTF-8 text", "convert it to UTF-8 first", where) from None


def load(path: str | Path) -> Run:
    """A finished run by its directory or alias (``tunery promote``). Raises ModelError if it is not one."""
    return Run(path)
