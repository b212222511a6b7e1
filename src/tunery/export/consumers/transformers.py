"""Plain transformers, and plain peft where the export is an adapter. Imports nothing of tunery.

Weights are computed with in fp32 whatever they are stored in: the question is whether the files hold the same model,
not how a processor rounds. A quantised base computes in its own dtype.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

BATCH = 16
"""Prompts that are answered together."""


def load(job: dict[str, Any]) -> Consumer:
    return Consumer(job)


class Consumer:
    """``job``: ``folder``, ``loader`` (a class of transformers) and, for an adapter, ``base`` with its ``folder``,
    ``dtype``, ``quantise`` (arguments of ``BitsAndBytesConfig``) and ``config`` (arguments of ``from_pretrained``).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import torch
        from transformers import AutoTokenizer

        torch.set_num_threads(job["threads"])
        folder, base = job["folder"], job.get("base")
        self.tokenizer = AutoTokenizer.from_pretrained(job.get("tokenizer", folder))
        loader = job["loader"]
        self.model: Any = _model(folder, loader, "auto") if base is None else _adapted(folder, base, loader)
        if not (base and base.get("quantise")):
            self.model = self.model.float()
        self.model.eval()
        self.versions = {name: version(name) for name in ("transformers", *(("peft",) if base else ()))}

    def tokens(self, ask: dict[str, Any]) -> list[int]:
        return tokens(self.tokenizer, ask)

    def logits(self, row: dict[str, Any]) -> Any:
        return logits(self.model, row)

    def answers(self, prompts: list[list[int]], most: int, stops: list[int]) -> list[list[int]]:
        """Prompts of a batch are padded on the side that the model reads first."""
        import torch

        pad = stops[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        left = not self.model.config.is_encoder_decoder
        found: list[list[int]] = []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            longest = max(map(len, part))
            gaps = [longest - len(prompt) for prompt in part]
            ids = [_padded(prompt, [pad] * gap, left) for prompt, gap in zip(part, gaps, strict=True)]
            mask = [_padded([1] * (longest - gap), [0] * gap, left) for gap in gaps]
            with torch.inference_mode():
                written = self.model.generate(
                    input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=most,
                    do_sample=False, num_beams=1, repetition_penalty=1.0, eos_token_id=stops, pad_token_id=pad,
                )  # fmt: skip
            found += [_until(line, stops) for line in written[:, longest if left else 1 :].tolist()]
        return found


def tokens(tokenizer: Any, ask: dict[str, Any]) -> list[int]:
    """Token ids of a question: a conversation (``chat``), words, or one or two ``texts`` (cut to ``longest``)."""
    if "chat" in ask:
        made = tokenizer.apply_chat_template(ask["chat"], add_generation_prompt=True, return_dict=True)
    elif "words" in ask:
        made = tokenizer(ask["words"], is_split_into_words=True)
    else:
        made = tokenizer(*ask["texts"], truncation="longest_first", max_length=ask["longest"])
    return [int(token) for token in made["input_ids"]]


def logits(model: Any, row: dict[str, Any]) -> Any:
    """[positions, classes] in fp32; ``positions`` None: all that the model says of the row. An extractive model says
    two lines, where the answer begins and where it ends.
    """
    import torch

    inputs = {name: torch.tensor([values]) for name, values in row["inputs"].items()}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        out = model(**inputs)
    if hasattr(out, "start_logits"):
        found = torch.cat([out.start_logits, out.end_logits])
    else:
        found = getattr(out, "logits", out)[0]
        found = found[None] if found.dim() == 1 else found
        if row["inputs"].get("decoder_input_ids") is None and len(found) > 1:
            found = found[_virtual(model) :]
    return (found if row["positions"] is None else found[row["positions"]]).float().numpy()


def _virtual(model: Any) -> int:
    """Positions that peft's prompt tuning puts before a row and that come back with it."""
    config = getattr(model, "active_peft_config", None)
    kind = str(getattr(config, "peft_type", ""))
    return int(config.num_virtual_tokens) if kind.endswith(("PROMPT_TUNING", "P_TUNING")) else 0  # type: ignore[union-attr]


def _model(folder: str, loader: str, dtype: Any, **arguments: Any) -> Any:
    import transformers

    return getattr(transformers, loader).from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **arguments
    )


def _adapted(folder: str, base: dict[str, Any], loader: str) -> Any:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

    arguments = dict(base.get("config") or {})
    if "id2label" in arguments:  # JSON knows no numbers as keys
        arguments["id2label"] = {int(number): name for number, name in arguments["id2label"].items()}
    if base.get("quantise"):
        arguments |= {"quantization_config": BitsAndBytesConfig(**base["quantise"]), "device_map": {"": "cpu"}}
    model = _model(base["folder"], loader, getattr(torch, base["dtype"]), **arguments)
    for module in model.modules():  # a kernel of bitsandbytes 0.50 for some processors that small layers break
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(model, folder)


def _padded(values: list[int], padding: list[int], left: bool) -> list[int]:
    return padding + values if left else values + padding


def _until(ids: list[int], stops: list[int]) -> list[int]:
    """What stands before the first stop."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
