"""One GGUF file, as llama.cpp and the programs built on it load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tunery.export import gguf_file, llama
from tunery.export.kind import Kind, Subject

FILE = "model.gguf"


class Gguf(Kind):
    summary = "one file for llama.cpp and programs built on it (Llama, Mistral, Qwen2, Qwen3)"
    consumer = "llama_cpp"
    dtypes: ClassVar[tuple[str, ...]] = gguf_file.KINDS

    def require_consumer(self) -> None:
        llama.require()

    def refuses(self, subject: Subject) -> str | None:
        return llama.refuses(subject)

    def dtype(self, subject: Subject) -> str:
        return "f16"

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        llama.write(subject, folder / FILE, dtype)

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        return {"gguf": str(folder / FILE), "exact": dtype == "f32"}

    def use(self, subject: Subject, target: Path) -> str:
        if subject.task.output != "text" or not subject.task.state().get("template"):
            return f"```bash\nllama-completion -m {target / FILE} --temp 0 -p 'Once upon a time'\n```\n"
        return (
            "The chat template of the run is in the file. llama.cpp's server speaks OpenAI's API:\n\n"
            f"```bash\nllama-server -m {target / FILE} --temp 0 --port 8080\n```\n\n"
            "and so does llama-cpp-python's:\n\n"
            f"```bash\npython -m llama_cpp.server --model {target / FILE} --port 8080\n```\n"
        )
