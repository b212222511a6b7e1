"""The LoRA adapter alone as a GGUF file, for the GGUF of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tunery.export import gguf_file, gguf_lora, llama
from tunery.export.kind import Kind, Subject
from tunery.rundir import read_json

FILE, BASE = "adapter.gguf", "base.gguf"


class GgufLora(Kind):
    summary = "the LoRA adapter as a GGUF file of its own, for llama.cpp's --lora"
    consumer = "llama_cpp"
    dtypes: ClassVar[tuple[str, ...]] = ("f32", "f16")

    def require_consumer(self) -> None:
        llama.require()

    def refuses(self, subject: Subject) -> str | None:
        if reason := llama.refuses(subject):
            return reason
        if subject.method.name != "lora":
            return f"llama.cpp's adapters are LoRA, and this run's method is {subject.method.name}; use --to gguf"
        if subject.base.quantised:
            return "the adapter belongs to a base quantised in training, of which there is no GGUF; use --to gguf"
        settings = read_json(subject.run.dir.model / "adapter_config.json")
        reason = gguf_lora.refusal(settings)
        return f"{reason}; use --to gguf" if reason else None

    def dtype(self, subject: Subject) -> str:
        return "f16"

    def build(self, subject: Subject, folder: Path, dtype: Any) -> None:
        adapter = subject.run.dir.model
        gguf_lora.write(folder / FILE, adapter, subject.base.config, dtype, llama.about(subject))

    def job(self, subject: Subject, folder: Path, dtype: Any) -> dict[str, Any]:
        """Beside the folder, and gone with it: the base, which a user has already."""
        base = folder.with_name(BASE)
        model, _ = subject.base.load("causal_lm")
        template = llama.chat_template(subject)
        gguf_file.write(base, model.float(), subject.tokenizer, dtype, template, llama.stop_ids(subject))
        return {"gguf": str(base), "lora": str(folder / FILE), "exact": dtype == "f32"}

    def use(self, subject: Subject, target: Path) -> str:
        base = subject.manifest["base"]
        name = base.get("hub") or base["name"]
        return (
            f"It goes with a GGUF file of its base ({name}), whose chat template should be the run's:\n\n"
            f"```bash\nllama-server -m BASE.gguf --lora {target / FILE} --temp 0 --port 8080\n```\n"
        )
