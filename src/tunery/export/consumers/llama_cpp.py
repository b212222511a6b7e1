"""llama.cpp through llama-cpp-python, with its own defaults. Imports nothing of tunery.

Its native build may die with an illegal instruction on another processor than it was built for: that ends this process
alone.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

ROOM = 64
"""Positions beyond the longest row that is known, for what its own tokenizer makes of a question."""


def load(job: dict[str, Any]) -> Consumer:
    return Consumer(job)


class Consumer:
    """``job``: ``gguf``, the file of a whole model, ``lora``, that of an adapter for it, or None, and ``exact``: keys
    and values are kept in fp32 then, instead of fp16.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import llama_cpp

        known = [len(row["inputs"]["input_ids"]) for row in job["rows"]]
        known += [len(prompt) + job["max_new_tokens"] for prompt in job["prompts"]]
        self.model: Any = llama_cpp.Llama(
            model_path=job["gguf"],
            lora_path=job.get("lora"),
            n_ctx=max(known) + ROOM,
            n_threads=job["threads"],
            n_threads_batch=job["threads"],
            logits_all=True,
            **(dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32) if job.get("exact") else {}),
            verbose=False,
        )
        self.versions = {"llama-cpp-python": llama_cpp.__version__}
        self._formatter: Any = None

    def tokens(self, ask: dict[str, Any]) -> list[int]:
        """As its server makes them: a conversation by the template in the file, a text with a BOS where the file says
        so.
        """
        if "chat" in ask:
            made = self._chat()(messages=ask["chat"])
            return self._ids(made.prompt, add_bos=not made.added_special)
        return self._ids("".join(ask["texts"]), add_bos=True)[: ask["longest"]]

    def _ids(self, text: str, add_bos: bool) -> list[int]:
        return [int(i) for i in self.model.tokenize(text.encode(), add_bos=add_bos, special=True)]

    def _chat(self) -> Any:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        if self._formatter is None:
            known = self.model.metadata
            named = {name: self._text(known.get(f"tokenizer.ggml.{name}_token_id")) for name in ("bos", "eos")}
            self._formatter = Jinja2ChatFormatter(
                template=known["tokenizer.chat_template"], bos_token=named["bos"], eos_token=named["eos"]
            )
        return self._formatter

    def _text(self, number: str | None) -> str:
        return "" if number is None else str(self.model.detokenize([int(number)], special=True).decode())

    def logits(self, row: dict[str, Any]) -> Any:
        """[positions, vocabulary]."""
        ids = row["inputs"]["input_ids"]
        self.model.reset()
        self.model.eval(ids)
        found = self.model.scores[: len(ids)]
        return found if row["positions"] is None else found[row["positions"]]

    def answers(self, prompts: list[list[int]], most: int, stops: list[int]) -> list[list[int]]:
        found = []
        for prompt in prompts:
            self.model.reset()
            written: list[int] = []
            for token in islice(self.model.generate(prompt, temp=0.0, repeat_penalty=1.0), most):
                if token in stops:
                    break
                written.append(int(token))
            found.append(written)
        return found
