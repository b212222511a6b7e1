"""The report at the end of a run. It is made of what the run has written, and never the reason that one fails."""

from __future__ import annotations

import contextlib

from tunery.errors import TuneryError
from tunery.run.records import say
from tunery.rundir import RunDir


def write(run: RunDir) -> None:
    """Write the report; where that fails, one line says so and the manifest keeps it (``report_problem``)."""
    from tunery.report import run as report

    try:
        report.write(run)
    except Exception as error:  # also a defect of ours: the model is trained and stays
        problem = str(error) or type(error).__name__
        say(f"no report was written: {problem} (tunery report {run.path} tries again)")
        with contextlib.suppress(TuneryError, OSError):
            run.update_manifest(report_problem=problem)
