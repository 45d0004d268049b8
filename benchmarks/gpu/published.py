"""How much faster than the published algorithm is ours at LLaDA-8B's size? One block of a rollout, one micro-batch.

Both sides run the same model (random weights, LoRA) on the same shapes. The block is the last of a canvas, so that
nothing but the block is filled; two tokens a step. Published are baselines/decoders.py and baselines/rl_step.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from benchmarks.baselines.decoders import published_generate
from benchmarks.baselines.rl_step import token_losses
from benchmarks.gpu.attempts import attempt, peak_gb, release
from benchmarks.gpu.model_8b import Sizes, random_ids, random_model, sizes_of, with_adapters
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import Timing, measure
from benchmarks.gpu.update_8b import Views, micro_batch_of, random_views
from dmpo import generate

Job = Callable[[], Any]
DECODERS = ("dual_cache", "topk")
SIDES = ("ours", "published")
SECONDS = {"dual_cache": 8.0, "topk": 20.0, "update": 5.0}  # of both sides, a guess
SAME = 0.02  # relative difference of the losses that bfloat16 logits leave


def run(setting: GpuSetting, note: Note) -> None:
    """The most important first; a measurement that does not fit into the remaining time is left out, with a note."""
    sizes, device = sizes_of(setting.rehearse), setting.device
    policy = with_adapters(random_model(sizes, device, setting.seed), sizes, device)
    for job, decoder in ((update, "update"), *((block, decoder) for decoder in DECODERS)):
        name = "a micro-batch" if decoder == "update" else f"a block by {decoder}"
        attempt(setting, note, name, partial(job, setting, note, sizes, policy, decoder), SECONDS[decoder])
        release(device)


def update(setting: GpuSetting, note: Note, sizes: Sizes, policy: nn.Module, _: str) -> None:
    """Notes a micro-batch of both sides, their losses side by side, and how many times faster and leaner ours is."""
    views = random_views(sizes, setting.device)
    jobs = {"ours": micro_batch_of(sizes, policy, views), "published": published_micro_batch(sizes, policy, views)}
    policy.eval()
    ours, published = (float(job()) for job in jobs.values())
    difference = abs(ours - published) / abs(published)
    note("loss of the same views on both sides", ok=difference < SAME, ours=ours, published=published)
    policy.train()
    fields = {"views": sizes.views, "width": sizes.canvas, "live": views.live}
    compare(setting, note, f"micro-batch of {sizes.views} x {sizes.canvas}", fields, jobs, repeats=3)
    policy.eval()
    policy.zero_grad()


def published_micro_batch(sizes: Sizes, policy: nn.Module, views: Views) -> Job:
    """The job of a forward and backward with the logits of all positions, as published; it returns the loss."""

    def job() -> Any:
        losses = token_losses(policy, views.rows, views.mask, sizes.mask_id) * views.mask
        loss = (views.weights * losses.sum(1) / views.mask.sum(1)).sum()
        loss.backward()
        return loss.detach()

    return job


def block(setting: GpuSetting, note: Note, sizes: Sizes, policy: nn.Module, decoder: str) -> None:
    """Notes one block of both sides, and how many times faster and leaner ours is."""
    prompts = random_ids(sizes, sizes.rows, sizes.canvas - sizes.block, setting.device)

    def jobs(steps: int) -> dict[str, Job]:
        options: dict[str, Any] = {"decoder": decoder, "gen_length": sizes.block, "block_length": sizes.block}
        options |= {"steps": steps, "temperature": 0.2, "mask_id": sizes.mask_id}
        return {"ours": partial(generate, policy, prompts, **options),
                "published": partial(published_generate, policy, prompts, **options)}  # fmt: skip

    for job in jobs(2).values():  # compiles what the others need
        job()
    steps = sizes.block // 2
    fields = {"decoder": decoder, "rows": sizes.rows, "width": sizes.canvas, "block": sizes.block, "steps": steps}
    compare(setting, note, f"block of {sizes.rows} rows by {decoder}", fields, jobs(steps), repeats=1)


def compare(
    setting: GpuSetting, note: Note, name: str, fields: dict[str, Any], jobs: dict[str, Job], repeats: int
) -> None:
    """Notes each side's time and peak memory (of the model, too), and the ratios."""
    times: dict[str, Timing] = {}
    peaks: dict[str, float | None] = {}
    for side in SIDES:
        times[side] = measure(setting.device, jobs[side], repeats=repeats, warm=repeats - 1)
        peaks[side] = peak_gb(setting.device, jobs[side])
        release(setting.device)
        device_ms, host_ms = times[side].device_seconds * 1e3, times[side].host_seconds * 1e3
        note(f"{name}, {side}", side=side, **fields, device_ms=device_ms, host_ms=host_ms, peak_gb=peaks[side])
    ours, published = peaks.values()
    note(
        f"{name}, ours beside published",
        times_faster=times["published"].device_seconds / times["ours"].device_seconds,
        times_leaner=None if ours is None or published is None else published / ours,
    )
