"""A GGUF file and the Modelfile with which Ollama serves it as the run was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tunery.export import gguf_file, llama, ollama, tokens, turns
from tunery.export.kind import Kind, Subject
from tunery.export.kinds.gguf import FILE, Gguf
from tunery.rundir import write_text

MODELFILE = "Modelfile"


class Ollama(Kind):
    summary = "a GGUF file and a Modelfile: template in Go's language, stops, system prompt"
    consumer = "llama_cpp"
    dtypes: ClassVar[tuple[str, ...]] = gguf_file.KINDS

    def require_consumer(self) -> None:
        llama.require()

    def refuses(self, subject: Subject) -> str | None:
        if reason := llama.refuses(subject):
            return reason
        if not subject.task.state().get("template"):
            return f"a run of task {subject.task.name} has no chat template; use --to gguf"
        if _turns(subject) is None:
            return (
                "the run's chat template does more than put turns one after the other, which has no counterpart in "
                "Ollama's language here; use --to gguf, whose file has the template as it is"
            )
        return None

    def dtype(self, subject: Subject) -> str:
        return "f16"

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        found = _turns(subject)
        assert found is not None, "refuses() said so"
        llama.write(subject, folder / FILE, dtype)
        stops = subject.tokenizer.convert_ids_to_tokens(list(llama.stop_ids(subject)))
        notes = [f"tunery run {subject.name}, base {subject.manifest['base']['name']}, weights {dtype}"]
        system = getattr(subject.config.task, "system", None)
        write_text(folder / MODELFILE, ollama.modelfile(FILE, found, system, stops, notes))

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        return Gguf().job(subject, folder, dtype)

    def use(self, subject: Subject, target: Path) -> str:
        return f"```bash\nollama create my-model -f {target / MODELFILE}\nollama run my-model\n```\n"


def _turns(subject: Subject) -> turns.Turns | None:
    template = tokens.bare_template(subject)
    return None if template is None else turns.read(template, subject.tokenizer)
