"""Every decoder on the pretend device: tokens beside those of the CPU's plain path, launches and syncs of each step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn

from dmpo import generate
from dmpo.decoding import compiled_step
from dmpo.decoding.loop import BlockLoop
from dmpo.kernels import launch
from dmpo.models import new_model
from tests.pretend_cuda.counts import Counts, counting
from tests.pretend_cuda.device import pretend_cuda
from tests.pretend_cuda.tensor import module_on_device, on_device, on_host

SIZES: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_hidden_size": 24}
SHAPE: dict[str, Any] = {"gen_length": 6, "block_length": 3, "steps": 4}
ROWS, PROMPT = 2, 3


@dataclass(frozen=True)
class Case:
    """options: of `generate`. padded: the first row's prompt has padding on its left. of_blocks: for a block-causal
    model."""

    decoder: str
    options: dict[str, Any] = field(default_factory=dict)
    padded: bool = False
    of_blocks: bool = False


CASES = {
    "topk": Case("topk"),
    "topk, temperature": Case("topk", {"temperature": 0.5}),
    "topk, early stop": Case("topk", {"early_stop": True}),
    "topk, guidance": Case("topk", {"cfg_scale": 1.0}),
    "topk, padded": Case("topk", padded=True),
    "topk, random order of unmasking": Case("topk", {"remasking": "random"}),
    "parallel, threshold, early stop": Case("parallel", {"threshold": 0.4, "early_stop": True}),
    "parallel, factor": Case("parallel", {"factor": 1.0}),
    "prefix_cache": Case("prefix_cache", {"temperature": 0.5}),
    "prefix_cache, factor, padded": Case("prefix_cache", {"factor": 1.0}, padded=True),
    "dual_cache": Case("dual_cache"),
    "dual_cache, padded, early stop": Case("dual_cache", {"early_stop": True}, padded=True),
    "dual_cache, threshold, temperature": Case("dual_cache", {"threshold": 0.4, "temperature": 0.7}),
    "dual_cache, threshold, guidance": Case("dual_cache", {"threshold": 0.4, "cfg_scale": 0.5}),
    "compiled": Case("dual_cache", {"compiled": True, "steps": 6, "temperature": 0.7}),
    "compiled, padded, guidance, early stop": Case(
        "dual_cache", {"compiled": True, "steps": 6, "early_stop": True, "cfg_scale": 0.5}, padded=True
    ),
    "compiled, threshold, random order": Case(
        "dual_cache", {"compiled": True, "threshold": 0.4, "remasking": "random", "temperature": 0.7}
    ),
    "wino": Case("wino", {"wino_threshold": 0.3}),
    "wino, padded, guidance": Case("wino", {"wino_threshold": 0.3, "cfg_scale": 0.5}, padded=True),
    "random_order": Case("random_order", {"temperature": 1.0}),
    "topk, prefix": Case("topk", {"cache": "prefix"}),
    "risk, dual": Case("risk", {"threshold": 0.4, "cache": "dual"}),
    "entropy": Case("entropy", {"entropy_bound": 1.0}),
    "hierarchy": Case("hierarchy", {"threshold": 0.4, "low_threshold": 0.2}),
    "credit": Case("credit", {"threshold": 0.4}),
    "credit, temperature": Case("credit", {"threshold": 0.4, "temperature": 0.7}),
    "topk, block-causal": Case("topk", of_blocks=True),
    "topk, block-causal, padded": Case("topk", padded=True, of_blocks=True),
}
LOOKS = ("wino", "risk", "entropy", "hierarchy", "credit")  # decoders whose counts only the device has


def model(case: Case) -> nn.Module:
    made = new_model(**SIZES, mask_id=59, eos_id=58, init_std=0.3)
    if case.of_blocks:
        made.config.block_size = SHAPE["block_length"]
    return made.eval()


def measure(case: Case) -> dict[str, Any]:
    """A compiled step runs as the function that torch would compile: the pretend device has no compiler and no graphs.

    same: share of equal tokens. before: syncs of `generate` outside of its steps; steps: counts of each. graphs: counts
    of each compiled function, and beside graphs: what else its step did.
    """
    prompts = torch.randint(0, 57, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1))
    attended = torch.ones(ROWS, PROMPT, dtype=torch.long)
    attended[0, :2] = 0
    options: dict[str, Any] = {"decoder": case.decoder, **SHAPE, **case.options}
    tensors: dict[str, Any] = {"prompt_ids": prompts, **({"attention_mask": attended} if case.padded else {})}
    with launch.plain_path(True):
        wanted = generate(model(case), **tensors, **options | {"compiled": False})
    steps: list[Counts] = []
    graphs: dict[int, Counts] = {}
    with uncompiled(graphs, steps), pretend_cuda(), counted_steps(steps), counting() as whole:
        found = generate(module_on_device(model(case)), **on_device(tensors), **options)
    inside = sum(steps, Counts())
    return {
        "same": float((on_host(found.sequences) == wanted.sequences).float().mean()),
        "log_prob_error": float((on_host(found.log_probs) - wanted.log_probs).abs().max()),
        "forwards": [found.forwards, wanted.forwards],
        "before": (whole - inside).record()["syncs"],
        "steps": [step.record() for step in steps],
        "graphs": [graph.record() for graph in graphs.values()],
        "beside graphs": [(steps[number] - graph).record() for number, graph in graphs.items()],
    }


@contextmanager
def uncompiled(graphs: dict[int, Counts], steps: list[Counts]) -> Iterator[None]:
    """Compiled steps are the functions themselves inside the block, and nothing is captured. `graphs` gets what such a
    function does, by the number of its step: what a graph would be."""

    def counted(step: Any) -> Any:
        with counting() as inside:
            result = compiled_step.call_step(step)
        graphs[len(steps)] = inside
        return result

    with (
        mock.patch.object(compiled_step, "_compiled", return_value=counted),
        mock.patch.object(compiled_step.CompiledStep, "_capture"),
    ):
        yield


@contextmanager
def counted_steps(steps: list[Counts]) -> Iterator[None]:
    """Appends the counts of every step that any `generate` makes inside the block."""
    step = BlockLoop._step

    def counted_step(self: BlockLoop, group: Any) -> Any:
        with counting() as counted:
            ended = step(self, group)
        steps.append(counted)
        return ended

    with mock.patch.object(BlockLoop, "_step", counted_step):
        yield
