"""What is the most that this device does: how fast does it copy, multiply and start kernels?

All other figures are compared with these. The products have the shapes of LLaDA-8B's passes and of the linear
cross-entropy; the operands are random, because a GPU is faster with zeros.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import Timing, measure
from benchmarks.harness.data_sheets import device_named
from dmpo import kernels
from dmpo.kernels.head import product

# name -> rows M, inner size K, columns N, dtype of the result
PRODUCTS = {
    "square": (8192, 8192, 8192, torch.bfloat16),
    "q, k, v or o of 512 positions": (512, 4096, 4096, torch.bfloat16),
    "up or gate of 512 positions": (512, 4096, 12288, torch.bfloat16),
    "q, k, v or o of 7296 positions": (7296, 4096, 4096, torch.bfloat16),
    "up or gate of 7296 positions": (7296, 4096, 12288, torch.bfloat16),
    "down of 7296 positions": (7296, 12288, 4096, torch.bfloat16),
    "LoRA A, rank 128, of 1824 positions": (1824, 4096, 128, torch.bfloat16),
    "LoRA B, rank 128, of 1824 positions": (1824, 128, 4096, torch.bfloat16),
    "head of 512 rows": (512, 4096, 126464, torch.bfloat16),
    "logits of a tile, 512 rows": (512, 4096, 8192, torch.float32),
    "gradient of a tile, 512 rows": (512, 8192, 4096, torch.float32),
    "logits of a tile, 2048 rows": (2048, 4096, 8192, torch.float32),
    "gradient of a tile, 2048 rows": (2048, 8192, 4096, torch.float32),
}
LAUNCHES = 200  # of a timed job: fewer than CUDA queues


def run(setting: GpuSetting, note: Note) -> None:
    device = setting.device
    sheet = device_named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    memory(setting, note, sheet.bandwidth if sheet else None)
    launches(setting, note)
    generator = torch.Generator(device).manual_seed(setting.seed)
    for name, (m, k, n, dtype) in PRODUCTS.items():
        if setting.rehearse:
            m, k, n = (max(8, size // 64) for size in (m, k, n))
        operand = torch.bfloat16 if device.type == "cuda" or dtype == torch.bfloat16 else dtype  # a CPU has no other
        a = torch.randn(m, k, generator=generator, device=device).to(operand)
        b = torch.randn(n, k, generator=generator, device=device).to(operand).t()
        out = torch.empty(m, n, dtype=dtype, device=device)
        timing = measure(device, partial(product, a, b, out), repeats=3 if setting.rehearse else 10)
        flops = 2 * m * k * n / timing.device_seconds
        note(
            f"product, {name}",
            rows=m,
            inner=k,
            columns=n,
            result=str(dtype).removeprefix("torch."),
            device_us=timing.device_seconds * 1e6,
            tflops=flops / 1e12,
            share_of_data_sheet=flops / sheet.tensor if sheet else None,
        )


def memory(setting: GpuSetting, note: Note, bandwidth: float | None) -> None:
    """Bytes read and written a second, of one long copy."""
    size = 1 << (20 if setting.rehearse else 31)
    source = torch.empty(size, dtype=torch.uint8, device=setting.device).random_()
    target = torch.empty_like(source)
    timing = measure(setting.device, lambda: target.copy_(source), repeats=3 if setting.rehearse else 10)
    rate = 2 * size / timing.device_seconds
    share = rate / bandwidth if bandwidth else None
    note("copy", gb=size / 1e9, device_ms=timing.device_seconds * 1e3, tb_per_s=rate / 1e12, share_of_data_sheet=share)


def launches(setting: GpuSetting, note: Note) -> None:
    """Time of one small job, on the host and on the device, when many follow each other."""
    device, repeats = setting.device, 2 if setting.rehearse else 10
    x = torch.zeros(128, device=device)
    logits, targets = torch.zeros(1, 1, 1024, device=device), torch.zeros(1, 1, dtype=torch.int64, device=device)
    tokens, candidates = (torch.zeros(1, 32, dtype=torch.int64, device=device) for _ in range(2))
    confidence = torch.zeros(1, 32, device=device)

    def many(job):  # type: ignore[no-untyped-def]
        def jobs() -> None:
            for _ in range(LAUNCHES):
                job()

        return jobs

    def report(name: str, timing: Timing) -> None:
        host, busy = timing.host_seconds / LAUNCHES, timing.device_seconds / LAUNCHES
        note(f"launch, {name}", host_us=host * 1e6, device_us=busy * 1e6)

    add = many(lambda: x.add_(1.0))
    report("x.add_(1)", measure(device, add, repeats))
    with torch.no_grad():
        logprobs = many(lambda: kernels.masked_token_logprobs(logits, targets))
        report("masked_token_logprobs of one row", measure(device, logprobs, repeats))
        sampled = many(lambda: kernels.sample_tokens(logits[0], 1.0, seed=0, forbid=(3,)))
        report("sample_tokens of one row", measure(device, sampled, repeats))
        remasked = many(lambda: kernels.remask_(tokens, candidates, confidence, mask_id=0, num_transfer=1))
        report("remask_ of one row", measure(device, remasked, repeats))
    if device.type == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            add()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            add()
        report("x.add_(1) in a CUDA graph", measure(device, graph.replay, repeats))
