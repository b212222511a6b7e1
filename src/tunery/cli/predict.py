"""tunery predict"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._sampling import sampling_options


def show(result: dict[str, Any]) -> None:
    if result["output"]:
        click.echo(f"{result['rows']} predictions in {result['output']}")
    for record in result.get("predictions", []):
        click.echo(json.dumps(record, ensure_ascii=False))


@click.command()
@click.argument("run")
@click.option("--input", "file", help="file of rows, in any format training reads; targets are not needed")
@click.option("--text", "texts", multiple=True, help="a text or question instead of a file")
@click.option("--output", help="JSONL file for the predictions; default: stdout")
@sampling_options
@verb(show)
def command(
    run: str, file: str | None, texts: tuple[str, ...], output: str | None, sampling: dict[str, Any]
) -> dict[str, Any]:
    """Predict labels (with probabilities), numbers or answers for new rows."""
    if (file is None) == (not texts):
        raise click.UsageError("give either --input FILE or --text TEXT")
    from tunery.generate.engine import Sampling
    from tunery.run.run import load
    from tunery.rundir import write_jsonl

    tuned = load(run)
    chosen = Sampling(**{"max_new_tokens": tuned.config.eval.max_new_tokens, **sampling})
    found = tuned.predict_file(file, chosen) if file else tuned.predict_texts(texts, chosen)
    result: dict[str, Any] = {"run": str(tuned.path), "rows": len(found), "output": output}
    if output:
        write_jsonl(Path(output), found)
    else:
        result["predictions"] = found
    return result
