"""How long does the linear cross-entropy of LLaDA-8B's head take, forward and backward, and what does it hold?

H = 4096, V = 126464, bfloat16, every row masked: of 8192, 2048 and 512 rows, the head frozen and trainable; beside it
PyTorch's own, Liger's and cut-cross-entropy, where they are installed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.baselines.kernels import LINEAR, LossInputs, Peer, load, make_loss_inputs
from benchmarks.gpu.attempts import attempt, release
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import measure
from benchmarks.harness.clock import gauge
from benchmarks.harness.setting import Setting

ROWS, HIDDEN, VOCAB, LENGTH = (8192, 2048, 512), 4096, 126464, 256
REHEARSED_ROWS, REHEARSED_HIDDEN, REHEARSED_VOCAB, REHEARSED_LENGTH = (16, 8), 16, 300, 4
SAME = "torch logits of all positions"  # all are masked, so it equals the peer of masked positions
# Milliseconds at 8192 rows and a frozen head on an H100. Liger's is its own figure, at V = 131072. The ceiling: both
# products at 798 TFLOP/s, which an H100 has been seen to reach.
TARGET_ROWS, TARGET_MS, LIGER_MS, CEILING_MS = 8192, 29.0, 50.4, 21.3
PRODUCTS = {"frozen": 4, "trainable": 6}  # FLOPs a row over H·V that a loss needs at least


def run(setting: GpuSetting, note: Note) -> None:
    """The largest and frozen first; a measurement that does not fit into the time left is skipped, with a note."""
    peers, versions = load([peer for peer in LINEAR if peer.name != SAME])
    named: dict[str, Any] = {name.replace("-", "_"): text for name, text in versions.items()}
    note("packages", **named)
    rows = REHEARSED_ROWS if setting.rehearse else ROWS
    hidden, vocab = (REHEARSED_HIDDEN, REHEARSED_VOCAB) if setting.rehearse else (HIDDEN, VOCAB)
    length = REHEARSED_LENGTH if setting.rehearse else LENGTH
    for head in PRODUCTS:
        for count in rows:
            inputs = make_loss_inputs(
                count // length,
                length,
                vocab,
                torch.bfloat16,
                str(setting.device),
                masked=1.0,
                hidden=hidden,
                trainable_head=head == "trainable",
            )
            for peer in peers:
                name = f"{peer.name}, {head} head, {count} rows"
                if peer.package and setting.device.type == "cpu":
                    note(f"left out: {name}", reason="a CPU has none")  # packages of Triton kernels for GPUs
                    continue
                needed = 1.0 + 20 * count * hidden * vocab * PRODUCTS[head] / 3e14
                attempt(setting, note, name, partial(loss, setting, note, name, peer, inputs, head), needed)
            del inputs
            release(setting.device)


def loss(setting: GpuSetting, note: Note, name: str, peer: Peer, inputs: LossInputs, head: str) -> None:
    """Notes one implementation's time and memory; of dmpo's main one also how it stands beside the target."""
    job = peer.build(inputs)
    timing = measure(setting.device, job, repeats=5)
    assert inputs.head is not None
    rows, flops = inputs.mask.numel(), PRODUCTS[head] * inputs.mask.numel() * inputs.head.numel()
    milliseconds = timing.device_seconds * 1e3
    note(
        name,
        package=peer.package or peer.name.split()[0],
        head=head,
        rows=rows,
        weighted=peer.weighted,
        device_ms=milliseconds,
        host_ms=timing.host_seconds * 1e3,
        tflops=flops / timing.device_seconds / 1e12,
        peak_gb=gauge(Setting(setting.device.type)).peak(job) / 1e9,
    )
    if name == f"{LINEAR[0].name}, frozen head, {TARGET_ROWS} rows":
        met = "met" if milliseconds <= TARGET_MS else "missed"
        note(
            "target", device_ms=milliseconds, target_ms=TARGET_MS, ceiling_ms=CEILING_MS, liger_ms=LIGER_MS, target=met
        )
