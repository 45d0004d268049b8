"""Does decoding on this device give the CPU's tokens, for every decoder, and how often does the host wait for it?

The embedded Sudoku model in float32. `synchronizations` counts the calls in which PyTorch made the host wait.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.records import GpuSetting, Note
from dmpo import generate, load_model, load_tokenizer
from dmpo.config.decoding import DECODERS, Decoder
from dmpo.decoding.generation import Generation
from dmpo.tasks import Sudoku4

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "topk": (
        {},
        {"temperature": 0.7},
        {"early_stop": True},
        {"cfg_scale": 1.0},
        {"padding": True},
        {"cache": "prefix"},
    ),
    "parallel": ({"threshold": 0.9}, {"factor": 1.0}),
    "prefix_cache": ({}, {"threshold": 0.9, "temperature": 0.7}),
    "dual_cache": ({}, {"threshold": 0.9}),
    "wino": ({}, {"temperature": 0.7}),
    "random_order": ({"temperature": 1.0},),
    "entropy": ({}, {"cache": "dual"}),
    "credit": ({}, {"temperature": 0.7}),
}
LEAST_SHARE = 0.97  # a step that rounding decides changes the tokens after it
TOLERANCE = 1e-3  # of log-probabilities, nats


def run(setting: GpuSetting, note: Note) -> None:
    tokenizer, task = load_tokenizer("sudoku-tiny"), Sudoku4(min_holes=4, max_holes=12)
    texts = [task.row("test", setting.seed % 1000 + index)["prompt"] for index in range(2 if setting.rehearse else 16)]
    prompts = torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])
    note("puzzles", first_row=setting.seed % 1000, rows=len(prompts))
    model = load_model("sudoku-tiny", dtype="float32", device=str(setting.device))
    on_cpu = load_model("sudoku-tiny", dtype="float32", device="cpu")
    for decoder in DECODERS:
        for options in CASES.get(decoder, ({},)):
            ours, waits = decode(model, prompts.to(setting.device), decoder, options)
            wanted, _ = decode(on_cpu, prompts, decoder, options)
            equal = ours.sequences.cpu() == wanted.sequences
            whole = equal.all(1)  # rows without a flip have the same history
            error = (ours.log_probs.cpu() - wanted.log_probs)[whole].abs()
            note(
                ", ".join([decoder, *(f"{key} {value}" for key, value in options.items())]),
                ok=float(equal.float().mean()) >= LEAST_SHARE and bool((error <= TOLERANCE).all()),
                equal_tokens=equal.float().mean(),
                log_prob_error=error.max() if error.numel() else 0.0,
                forwards=ours.forwards,
                forwards_on_cpu=wanted.forwards,
                synchronizations=waits,
            )


def decode(
    model: nn.Module, prompts: torch.Tensor, decoder: Decoder, options: dict[str, Any]
) -> tuple[Generation, int]:
    """The generation, and how often the host waited for the device."""
    options = dict(options)
    if options.pop("padding", False):  # a third of the rows has its first tokens padded away
        options["attention_mask"] = torch.ones_like(prompts)
        options["attention_mask"][::3, :2] = 0
    on_gpu = prompts.device.type == "cuda"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            generation = generate(
                model, prompts, decoder=decoder, gen_length=16, block_length=8, steps=8, seed=1, **options
            )
        finally:
            if on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return generation, sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
