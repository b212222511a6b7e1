"""A LoRA adapter alone as a GGUF file, for llama.cpp's ``--lora`` beside the GGUF of its base.

llama.cpp computes W x + (alpha / r) B (A x) with one alpha for the file, so what a layer's own scale differs from that
is folded into its B. B's rows are in the order of the weight that it stands beside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tunery.export import gguf_file
from tunery.export.gguf_file import Kind
from tunery.export.gguf_layout import layout_of, refused
from tunery.models import weights

PREFIX, HALVES = "base_model.model.", (".lora_A.weight", ".lora_B.weight")


def write(path: Path, adapter: Path, config: Any, kind: Kind = "f32", about: Mapping[str, str] | None = None) -> None:
    """Args:
        adapter: folder in peft's format.
        config: of the base model.
        kind: of the matrices.
        about: names of the ``general`` section with their values.

    Raises ConfigError if the adapter holds more than a low-rank update, or llama.cpp has no such architecture.
    """
    import gguf

    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if reason := refusal(settings):
        raise refused(reason)
    layout = layout_of(config)
    pairs = _pairs(weights.read(adapter / "adapter_model.safetensors"))
    scales = {name: _scale(settings, name, a.shape[0]) for name, (a, _) in pairs.items()}
    # alpha belongs to all layers alike: with alpha = r x scale of the first, its B stays as it is
    first, (lead, _) = next(iter(pairs.items()))
    alpha = scales[first] * lead.shape[0]

    def tensors() -> list[tuple[str, Tensor]]:
        found = []
        for name, (a, b) in pairs.items():
            weight = f"{name}.weight"
            b = layout.rows(weight, b.float()) * (scales[name] * a.shape[0] / alpha)
            found += [(f"{layout.name(weight)}.lora_a", a.float()), (f"{layout.name(weight)}.lora_b", b)]
        return found

    writer = gguf.GGUFWriter(path, layout.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    for key, value in (about or {}).items():
        writer.add_string(f"general.{key}", value)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    gguf_file.finish(writer, tensors, kind)


def refusal(settings: Mapping[str, Any]) -> str | None:
    """Why an adapter (its ``adapter_config.json``) is none for llama.cpp, or None."""
    if settings.get("peft_type") != "LORA":
        return f"the adapter is of type {settings.get('peft_type')}; llama.cpp loads LoRA"
    if settings.get("use_dora"):
        return "DoRA scales whole columns of the weights, which llama.cpp's adapters cannot"
    if settings.get("modules_to_save"):
        return f"the run trained {', '.join(settings['modules_to_save'])} as a whole beside the adapter"
    return None


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """→ A and B by the name of the module they stand beside. Raises ConfigError for anything else."""
    ends = {name: next((end for end in HALVES if name.endswith(end)), "") for name in tensors}
    strange = [name for name, end in ends.items() if not end]
    modules = {name.removeprefix(PREFIX).removesuffix(end) for name, end in ends.items()}
    alone = [m for m in modules if any(f"{PREFIX}{m}{end}" not in tensors for end in HALVES)]
    head = [m for m in modules if m.endswith(("lm_head", "embed_tokens"))]
    if strange or alone or head:
        raise refused(f"the adapter has {sorted(strange + alone + head)[0]}, which llama.cpp's adapters do not")
    return {m: (tensors[f"{PREFIX}{m}{HALVES[0]}"], tensors[f"{PREFIX}{m}{HALVES[1]}"]) for m in sorted(modules)}


def _scale(settings: Mapping[str, Any], name: str, rank: int) -> float:
    """What peft multiplies B A by in this layer."""
    patterns: dict[str, float] = settings.get("alpha_pattern") or {}
    alpha = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", name)), settings["lora_alpha"])
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)
