"""Passes of LLaDA-8B without a gradient: over whole canvases, and over a block beside kept keys and values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.gpu.model_8b import Sizes, random_ids
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import measure
from dmpo.decoding.cache import BlockCache
from dmpo.models.masked_lm import hidden_states

ADAPTERS = {"none": "no adapters", "lora": "LoRA", "merged": "adapters merged"}
Pass = Callable[[], Tensor]


@torch.no_grad()
def passes(setting: GpuSetting, note: Note, sizes: Sizes, model: nn.Module, adapters: str) -> float:
    """Notes a pass over canvases, one over their blocks, and one over a single block; seconds of the first.

    adapters: what the model has of them, a key of `ADAPTERS`.
    """
    seconds = note_pass(setting, note, sizes, model, adapters, sizes.rows, sizes.canvas)
    for rows in (sizes.rows, 1):
        note_pass(setting, note, sizes, model, adapters, rows, sizes.block)
    return seconds


@torch.no_grad()
def note_pass(
    setting: GpuSetting,
    note: Note,
    sizes: Sizes,
    model: nn.Module,
    adapters: str,
    rows: int,
    width: int,
    layers: str = "eager",
) -> float:
    """Seconds of a pass over `rows` canvases, or over blocks of them. layers: eager or compiled."""
    whole = width == sizes.canvas
    ids = random_ids(sizes, rows, sizes.canvas, setting.device)
    job = (canvas_pass if whole else block_pass)(model, sizes, ids)
    timing = measure(setting.device, job, repeats=3 if whole else 8, warm=2)
    note(
        f"pass over {rows} x {width}, {ADAPTERS[adapters]}{', layers compiled' if layers == 'compiled' else ''}",
        rows=rows,
        width=width,
        attended=0 if whole else sizes.canvas,
        adapters=adapters,
        layers=layers,
        device_ms=timing.device_seconds * 1e3,
        host_ms=timing.host_seconds * 1e3,
    )
    return timing.device_seconds


def canvas_pass(model: nn.Module, sizes: Sizes, ids: Tensor) -> Pass:
    """The job of one pass over canvases of these ids, int64 [rows, canvas]."""
    return lambda: hidden_states(model, ids)


def block_pass(model: nn.Module, sizes: Sizes, ids: Tensor) -> Pass:
    """The job of one pass over the first blocks of the completions, beside the whole canvas' keys and values.

    ids: of the canvases, int64 [rows, canvas].
    """
    cache = BlockCache(sizes.layers)
    hidden_states(model, ids, None, None, past_key_values=cache, use_cache=True)
    cache.place.positions = torch.arange(sizes.prompt, sizes.prompt + sizes.block, device=ids.device)
    positions = cache.place.positions.unsqueeze(0)
    block = ids[:, sizes.prompt : sizes.prompt + sizes.block].contiguous()
    return lambda: hidden_states(model, block, None, positions, past_key_values=cache, use_cache=True)
