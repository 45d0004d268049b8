"""What three changes would bring at LLaDA-8B's size: adapters merged, a block pass as a CUDA graph, layers compiled."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.gpu.float32_error import in_float32, note_error
from benchmarks.gpu.model_8b import Sizes, random_ids
from benchmarks.gpu.passes_8b import block_pass, canvas_pass, note_pass, passes
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import measure, synchronize
from benchmarks.gpu.update_8b import micro_batch_of, note_micro_batch, random_views
from dmpo.models.compiled_layers import compile_layers
from dmpo.models.merged_adapters import merged_adapters as merged


def merged_adapters(setting: GpuSetting, note: Note, sizes: Sizes, policy: Any) -> None:
    """Notes the passes with the adapters merged as `merge_adapters` does it, and what merging takes."""
    ids = random_ids(sizes, sizes.rows, sizes.canvas, setting.device)
    job, exact = canvas_pass(policy, sizes, ids), in_float32(canvas_pass, policy, sizes, ids)
    with torch.no_grad():
        eager = job()
    with ExitStack() as stack:
        timing = measure(setting.device, lambda: stack.enter_context(merged(policy)), repeats=1, warm=0)
        note("adapters merged into the weights", device_ms=timing.device_seconds * 1e3)
        with torch.no_grad():
            note_error(note, "a pass with adapters merged", job(), eager, exact)
        passes(setting, note, sizes, policy, "merged")


@torch.no_grad()
def graph_of_a_block(setting: GpuSetting, note: Note, sizes: Sizes, policy: Any) -> None:
    """Notes a block pass with LoRA as it is launched, and replayed from one graph. A CPU has no graphs."""
    device = setting.device
    ids = random_ids(sizes, sizes.rows, sizes.canvas, device)
    job = block_pass(policy, sizes, ids)
    if device.type != "cuda":
        note("left out: CUDA graph of a block pass", reason="a CPU has none")
        job()
        return
    exact = in_float32(block_pass, policy, sizes, ids)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        job()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = job()
    eager = job()
    graph.replay()
    first = replayed.clone()
    graph.replay()
    synchronize(device)
    note("a CUDA graph of a block pass, replayed twice", ok=torch.equal(first, replayed))
    note_error(note, "a CUDA graph of a block pass", replayed, eager, exact)
    timing = measure(device, graph.replay, repeats=20)
    note(
        f"pass over {sizes.rows} x {sizes.block}, LoRA, as a CUDA graph",
        graph_ms=timing.device_seconds * 1e3,
        host_ms=timing.host_seconds * 1e3,
    )


def compiled_layers(setting: GpuSetting, note: Note, sizes: Sizes, policy: Any) -> None:
    """Notes a micro-batch, a canvas pass and a block pass with LoRA whose layers are compiled as `compile=layers` does
    it."""
    device = setting.device
    ids = random_ids(sizes, sizes.rows, sizes.canvas, device)
    job, exact = canvas_pass(policy, sizes, ids), in_float32(canvas_pass, policy, sizes, ids)
    with torch.no_grad():
        eager = job()
    views = random_views(sizes, device)
    micro_batch = micro_batch_of(sizes, policy, views)
    policy.train()
    compile_layers(policy, (lambda graph, _: graph.forward) if setting.rehearse else None)
    compiling = measure(device, micro_batch, repeats=1, warm=0)
    note("first micro-batch with layers compiled", seconds=max(compiling.device_seconds, compiling.host_seconds))
    note_micro_batch(setting, note, sizes, micro_batch, views.live, "compiled")
    policy.eval()
    for width in (sizes.canvas, sizes.block):
        note_pass(setting, note, sizes, policy, "lora", sizes.rows, width, "compiled")
    with torch.no_grad():
        note_error(note, "a pass with layers compiled", job(), eager, exact)
