"""What three changes would bring at LLaDA-8B's size: adapters merged, a block pass as a CUDA graph, layers compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.model_8b import Sizes
from benchmarks.gpu.passes_8b import block_pass, canvas_pass, note_pass, passes
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import measure, synchronize
from benchmarks.gpu.update_8b import micro_batch_of, note_micro_batch, random_views

CLOSE = 0.02  # relative error that bfloat16 leaves


def merged_adapters(setting: GpuSetting, note: Note, sizes: Sizes, policy: Any) -> None:
    """Notes the passes with the adapters merged into the weights, and what merging takes; they are unmerged again."""
    timing = measure(setting.device, policy.merge_adapter, repeats=1, warm=0)
    note("adapters merged into the weights", device_ms=timing.device_seconds * 1e3)
    try:
        passes(setting, note, sizes, policy, "merged")
    finally:
        policy.unmerge_adapter()


@torch.no_grad()
def graph_of_a_block(setting: GpuSetting, note: Note, sizes: Sizes, policy: Any) -> None:
    """Notes a block pass with LoRA as it is launched, and replayed from one graph. A CPU has no graphs."""
    device = setting.device
    job = block_pass(policy, sizes, sizes.rows, device)
    if device.type != "cuda":
        note("left out: CUDA graph of a block pass", reason="a CPU has none")
        job()
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        job()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = job()
    launched = job()
    graph.replay()
    synchronize(device)
    error = relative_error(replayed, launched)
    timing = measure(device, graph.replay, repeats=20)
    note(
        f"pass over {sizes.rows} x {sizes.block}, LoRA, as a CUDA graph",
        ok=error < CLOSE,
        graph_ms=timing.device_seconds * 1e3,
        host_ms=timing.host_seconds * 1e3,
        error=error,
    )


def compiled_layers(setting: GpuSetting, note: Note, sizes: Sizes, policy: Any) -> None:
    """Notes a micro-batch and a canvas pass with LoRA whose layers are compiled: one compilation serves all layers.

    A pass beside kept keys would be compiled for each layer, which has a cache of its own; it is left out.
    """
    device = setting.device
    job = canvas_pass(policy, sizes, sizes.rows, device)
    with torch.no_grad():
        plain = job()
    views = random_views(sizes, device)
    micro_batch = micro_batch_of(sizes, policy, views)
    policy.train()
    for layer in policy.get_base_model().model.layers:
        layer.compile(dynamic=False, backend="eager" if setting.rehearse else "inductor")
    compiling = measure(device, micro_batch, repeats=1, warm=0)
    note("first micro-batch with layers compiled", seconds=max(compiling.device_seconds, compiling.host_seconds))
    note_micro_batch(setting, note, sizes, micro_batch, views.live, "compiled")
    policy.eval()
    note_pass(setting, note, sizes, policy, "lora", sizes.rows, sizes.canvas, "compiled")
    with torch.no_grad():
        error = relative_error(job(), plain)
    note("a pass with layers compiled, beside one without", ok=error < CLOSE, error=error)


def relative_error(found: Tensor, true: Tensor) -> float:
    """Norm of the difference over the norm of what is true."""
    return float((found.double() - true.double()).norm() / true.double().norm().clamp(min=1e-30))
