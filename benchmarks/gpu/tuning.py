"""Which launch parameters are the fastest on this device, and by how much?

Block size and warps of every tuned kernel at LLaDA's vocabulary. The fastest are written to the cache that every later
process on this machine reads. The part notes the same table; what is to ship with the package goes into `TABLE` of
kernels/launch/table.py. A rehearsal times the plain path and writes to a folder that it deletes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import measure
from dmpo import kernels
from dmpo.kernels import launch
from dmpo.kernels.autotune import autotune
from dmpo.kernels.launch.table import cache_file

ROWS, VOCABULARY, WIDTH = 1024, 126464, 4096
SAME = 1e-5  # log-probabilities and gradients before and after, in units of the largest
SECONDS_AN_OP = 12  # up to 15 candidates, each compiled anew
TEMPERATURE, LEAST_SAME = 0.2, 0.99
Outcome = tuple[torch.Tensor, ...]


def run(setting: GpuSetting, note: Note) -> None:
    with scratch_cache() if setting.rehearse else nothing():
        for dtype in (torch.bfloat16, torch.float32):
            for op, job in jobs(setting, dtype).items():
                # The tiles of logits that this kernel reads are float32, whatever the operands of the product.
                size = torch.float32 if op == "tile_softmax" else dtype
                name = f"{op}, {str(size).removeprefix('torch.')}"
                if not setting.rehearse and setting.remaining() < SECONDS_AN_OP:
                    note(name, skipped="no time left")
                    continue
                tune(op, size, job, setting, note, name)
        file = cache_file()
        table = json.loads(file.read_text())
        note(
            "table, for launch/table.py",
            launch_json=json.dumps(table),
            file=None if setting.rehearse else _below_home(file),
        )


def _below_home(file: Path) -> str:
    """The path as `~/…` if it is below the user's home: results name no folder of one machine."""
    return f"~/{file.relative_to(Path.home())}" if file.is_relative_to(Path.home()) else str(file)


def tune(op: str, dtype: torch.dtype, job: Callable[[], Outcome], setting: GpuSetting, note: Note, name: str) -> None:
    """Search, and see that the results stay."""
    repeats = 1 if setting.rehearse else 7
    vocabulary = VOCABULARY // 128 if setting.rehearse else VOCABULARY
    shipped, before = launch.launch_config(op, vocabulary, dtype), job()
    seconds = measure(setting.device, job, repeats).device_seconds
    best = autotune(
        op,
        vocabulary,
        dtype,
        job,
        timer=lambda candidate: measure(setting.device, candidate, repeats, warm=1).device_seconds,
    )
    tuned = measure(setting.device, job, repeats).device_seconds
    after = job()
    pairs = zip(after, before, strict=True)
    error = max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)
    allowed = max(SAME, torch.finfo(dtype).eps)
    note(
        name,
        ok=error <= allowed,
        block=best.block,
        warps=best.num_warps,
        shipped_block=shipped.block,
        shipped_warps=shipped.num_warps,
        tuned_us=tuned * 1e6,
        shipped_us=seconds * 1e6,
        times_faster=seconds / tuned,
        error=error,
    )


def jobs(setting: GpuSetting, dtype: torch.dtype) -> dict[str, Callable[[], Outcome]]:
    """A function for each tuned kernel that launches it and returns its results."""
    rows, vocabulary = (4, VOCABULARY // 128) if setting.rehearse else (ROWS, VOCABULARY)
    width = 64 if setting.rehearse else WIDTH
    generator = torch.Generator(setting.device).manual_seed(setting.seed)
    logits = torch.randn(1, rows, vocabulary, generator=generator, device=setting.device).to(dtype)
    targets = torch.randint(vocabulary, (1, rows), generator=generator, device=setting.device)
    hidden = torch.randn(rows, width, generator=generator, device=setting.device).to(dtype)
    head = torch.randn(vocabulary, width, generator=generator, device=setting.device).to(dtype)
    leaf = logits.clone().requires_grad_()
    value = kernels.masked_token_logprobs(leaf, targets)
    upstream = torch.ones_like(value)

    first_ids, first_confidence = kernels.sample_tokens(logits[0], TEMPERATURE, seed=1, forbid=(3,))

    @torch.no_grad()
    def forward() -> Outcome:
        return (kernels.masked_token_logprobs(logits, targets),)

    def backward() -> Outcome:
        return torch.autograd.grad(value, leaf, upstream, retain_graph=True)

    def sample() -> Outcome:
        ids, confidence = kernels.sample_tokens(logits[0], TEMPERATURE, seed=1, forbid=(3,))
        same = ids == first_ids  # another block rounds its sums in another way, and a draw on an edge may differ
        return torch.where(same, confidence, first_confidence), same.double().mean().clamp(max=LEAST_SAME)

    def linear() -> Outcome:
        rows = hidden.detach().requires_grad_()
        return torch.autograd.grad(kernels.linear_token_logprobs(rows, head, targets[0]), rows, upstream[0])

    all_jobs = {"ce_forward": forward, "ce_backward": backward, "sample_tiles": sample, "tile_softmax": linear}
    if dtype == torch.float32:
        del all_jobs["tile_softmax"]  # tuned with bfloat16 operands, which models have
    return all_jobs


@contextmanager
def scratch_cache() -> Iterator[None]:
    """The cache of launch parameters in a folder that is deleted."""
    before: Any = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        launch.forget_files()
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before
            launch.forget_files()


@contextmanager
def nothing() -> Iterator[None]:
    yield
