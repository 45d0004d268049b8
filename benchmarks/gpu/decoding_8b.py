"""Steps of every decoder on LLaDA-8B, and the tokens a second that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.model_8b import Sizes, random_ids
from benchmarks.gpu.passes_8b import ADAPTERS
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.steps import Step, completion_seconds, measure_steps, typical

# The most important first. parallel uses a threshold; topk and the caches use the schedule, two tokens a step.
DECODERS: Mapping[str, Mapping[str, Any]] = {
    "dual_cache": {},
    "topk": {},
    "prefix_cache": {},
    "parallel": {"threshold": 0.9},
    "wino": {},
    "random_order": {},
}
CACHED = ("prefix_cache", "dual_cache")
TEMPERATURE = 0.2
LATER = 3  # steps that are timed after a block's first
PACES = (1, 2, 4)  # tokens a step


def decoding(
    setting: GpuSetting,
    note: Note,
    sizes: Sizes,
    model: nn.Module,
    adapters: str,
    rows: int,
    decoders: Mapping[str, Mapping[str, Any]],
    canvas: float,
) -> None:
    """Notes steps of each decoder on `rows` completions; canvas: seconds of a pass over `sizes.rows` canvases."""
    for decoder, options in decoders.items():
        passes_needed = (3 if decoder in CACHED else LATER + 3) * max(1.0, rows / sizes.rows)
        fields = {"decoder": decoder, "adapters": adapters, "rows": rows}
        name = f"{decoder}, {rows} row{'s' if rows > 1 else ''}, {ADAPTERS[adapters]}"
        job = partial(decode, setting, note, sizes, model, name, fields, options)
        attempt(setting, note, name, job, 1.5 * canvas * passes_needed)


def decode(
    setting: GpuSetting,
    note: Note,
    sizes: Sizes,
    model: nn.Module,
    name: str,
    fields: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Notes the first step of a block, later ones, and what a whole completion would take; one decoder."""
    decoder, rows = fields["decoder"], fields["rows"]
    prompt, completion = place(sizes, decoder)
    prompts = random_ids(sizes, rows, prompt, setting.device)
    common: dict[str, Any] = {"decoder": decoder, "gen_length": completion, "block_length": sizes.block}
    common |= {"steps": completion // 2, "temperature": TEMPERATURE, **options}
    measure_steps(model, prompts, 1, **common)  # compiles what the others need
    first, *rest = measure_steps(model, prompts, LATER, **common)
    later = typical(rest)
    for which, step in (("first", first), ("later", later)):
        note(
            f"{which} step of {name}",
            **fields,
            width=step.width,
            attended=step.attended,
            live=step.live,
            device_ms=step.timing.device_seconds * 1e3,
            host_ms=step.timing.host_seconds * 1e3,
        )
    unmasked = (first.unmasked + sum(step.unmasked for step in rest)) / rows / (1 + len(rest))
    rates = tokens_per_s(sizes, rows, first, later)
    known: dict[str, Any] = {
        f"tokens_per_s_at_{pace}": rates[pace] if decoder != "random_order" or pace == 1 else None for pace in PACES
    }
    note(f"completions by {name}, derived", **fields, tokens_a_forward_of_random_weights=unmasked, **known)


def tokens_per_s(sizes: Sizes, rows: int, first: Step, later: Step) -> dict[int, float]:
    """Tokens a second of `rows` whole completions, by tokens that a step unmasks of each row.

    Every block is taken to need the time of the timed one.
    """
    blocks = sizes.completion // sizes.block
    times = [max(step.timing.device_seconds, step.timing.host_seconds) for step in (first, later)]
    return {
        pace: rows * sizes.completion / completion_seconds(*times, blocks=blocks, block=sizes.block, tokens_a_step=pace)
        for pace in PACES
    }


def place(sizes: Sizes, decoder: str) -> tuple[int, int]:
    """Tokens before the block that is timed, and from it on.

    A pass of prefix_cache runs on all positions from the block's start on, so a block in the middle represents all
    blocks. With other decoders any block does, and the first is timed.
    """
    done = (sizes.completion // sizes.block - 1) // 2 * sizes.block if decoder == "prefix_cache" else 0
    return sizes.prompt + done, sizes.completion - done
