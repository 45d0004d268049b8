"""Diffusion language models that are known and do not load: by name before a download, and by their config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DENSE = "GSAI-ML/LLaDA-8B-Instruct and GSAI-ML/iLLaDA-8B-Instruct are dense and load"


@dataclass(frozen=True)
class Refused:
    """A family of checkpoints that does not load.

    names: how the names of its repositories begin, in small letters. why: the obstacle. instead: what works.
    """

    family: str
    model_types: tuple[str, ...]
    names: tuple[str, ...]
    why: str
    instead: str

    @property
    def message(self) -> str:
        """Why the family does not load, and what works."""
        return f"{self.family} does not load: {self.why}; {self.instead}"


# LLaDA-MoE has the model type of LLaDA: `find` tells them apart.
REFUSED: tuple[Refused, ...] = (
    Refused(
        "LLaDA-MoE",
        (),
        ("inclusionai/llada-moe",),
        "its layers are mixtures of experts, and dmpo has dense layers only",
        _DENSE,
    ),
    Refused(
        "LLaDA2.x",
        ("llada2_moe",),
        ("inclusionai/llada2.",),
        "its layers are mixtures of experts, and its attention is block-causal",
        f"{_DENSE}; NeMo AutoModel fine-tunes LLaDA2.1-mini",
    ),
    Refused(
        "DiffusionGemma",
        ("diffusion_gemma", "diffusion_gemma_text"),
        ("google/diffusiongemma",),
        "it has no mask token, because its noise is random tokens; the losses of dmpo are for masks",
        f"{_DENSE}; transformers loads DiffusionGemma, and NeMo AutoModel fine-tunes it",
    ),
    Refused(
        "SDAR-30B-A3B",
        ("sdar_moe",),
        ("jetlm/sdar-30b",),
        "its layers are mixtures of experts, and dmpo has dense layers only",
        "JetLM/SDAR-8B-Chat is dense and loads",
    ),
    Refused(
        "Fast_dLLM_v2",
        ("Fast_dLLM_Qwen",),
        ("efficient-large-model/fast_dllm_v2",),
        "it combines block-causal attention with predictions that are shifted by one position",
        "Dream-org/Dream-v0-Instruct-7B has the same shapes and loads",
    ),
)


def find_refused(name: str | None = None, fields: Mapping[str, Any] | None = None) -> Refused | None:
    """The family of a Hub id, or of the fields of a config.json, if the family is known and does not load."""
    small = (name or "").lower()
    fields = fields or {}
    model_type = fields.get("model_type")
    if model_type == "llada" and fields.get("num_experts"):
        return REFUSED[0]
    for family in REFUSED:
        if any(small.startswith(start) for start in family.names) or model_type in family.model_types:
            return family
    return None


def check_name(path: str | Path) -> None:
    """Raise ValueError if `path` is the Hub id of a checkpoint that is known and does not load, and no folder here."""
    if isinstance(path, str) and not Path(path).expanduser().exists() and (family := find_refused(name=path)):
        raise ValueError(f"{path}: {family.message}")
