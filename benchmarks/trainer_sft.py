"""The baseline of ``sft.py``: what a tutorial does. ``transformers.Trainer``, peft, fp32, dynamic padding.

Prints one JSON object: real tokens a second, peak memory, validation loss per supervised token.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)


def rows(path: Path, tokenizer, max_length: int, limit: int | None) -> list[dict[str, list[int]]]:
    """Alpaca rows under the model's chat template, loss on the answer and its end token."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:limit]:
        row = json.loads(line)
        asked = row["instruction"] + (f"\n\n{row['input']}" if row["input"].strip() else "")
        turns = [{"role": "user", "content": asked}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": row["output"]}], tokenize=False
        ).rstrip("\n")
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:max_length]
        skip = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        labels = [-100] * min(skip, len(ids)) + ids[skip:]
        if any(label != -100 for label in labels):
            found.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return found


@torch.no_grad()
def validation_loss(model, data: list[dict[str, list[int]]]) -> float:
    model.eval()
    total, count = 0.0, 0
    for row in data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        logits = model(input_ids=ids).logits[:, :-1].float()
        total += float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        )
        count += int((labels[:, 1:] != -100).sum())
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--lr", type=float, required=True)
    args = parser.parse_args()
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    train = rows(args.data / "train.jsonl", tokenizer, 512, args.rows)
    validation = rows(args.data / "validation.jsonl", tokenizer, 512, None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=8,
            num_train_epochs=1,
            learning_rate=args.lr,
            lr_scheduler_type="linear",
            warmup_steps=0.06,
            weight_decay=0.01,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_steps=10,
            seed=42,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        )
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    tokens = sum(len(row["input_ids"]) for row in train)
    print(
        json.dumps(
            {
                "tokens_per_second": tokens / seconds,
                "seconds": seconds,
                "peak_memory_bytes": peak,
                "validation_loss": validation_loss(model, validation),
            }
        )
    )


if __name__ == "__main__":
    main()
