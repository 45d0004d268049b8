"""A gpu.json as `python -m benchmarks.gpu` would leave it, with figures that are easy to reckon with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PASS = {"adapters": "lora", "layers": "eager"}
STEP = {"decoder": "dual_cache", "adapters": "none", "attended": 456, "live": 480}
RATES = {"decoder": "dual_cache", "adapters": "none", "tokens_a_forward_of_random_weights": 2.0}
PARTS: dict[str, list[dict[str, Any]]] = {
    "ceilings": [
        {"name": "copy", "tb_per_s": 3.0, "device_ms": 1.4},
        {"name": "product, square", "tflops": 700.0, "device_us": 1500.0},
        {"name": "product, thin", "tflops": 400.0, "device_us": 9.0},
    ],
    "llada_8b": [
        {"name": "pass over 16 x 456, LoRA", "rows": 16, "width": 456, "attended": 0, **PASS}
        | {"device_ms": 250.0, "host_ms": 200.0},
        {"name": "pass over 1 x 32, LoRA", "rows": 1, "width": 32, "attended": 456, **PASS}
        | {"device_ms": 30.0, "host_ms": 29.0},
        {"name": "pass over 16 x 456, LoRA, layers compiled", "rows": 16, "width": 456, "attended": 0, **PASS}
        | {"layers": "compiled", "device_ms": 100.0, "host_ms": 1.0},
        {"name": "later step of dual_cache", "rows": 16, "width": 32, **STEP, "device_ms": 20.0, "host_ms": 19.0},
        {"name": "completions by dual_cache, 16 rows, no adapters, derived", "rows": 16, **RATES}
        | {"tokens_per_s_at_1": 600.0, "tokens_per_s_at_2": 1100.0, "tokens_per_s_at_4": 2000.0},
        {"name": "completions by random_order, 1 row, no adapters, derived", "rows": 1, **RATES}
        | {"decoder": "random_order", "tokens_per_s_at_1": 30.0, "tokens_per_s_at_2": None, "tokens_per_s_at_4": None},
        {"name": "micro-batch of 4 x 456, forward and backward", "views": 4, "width": 456, "live": 512}
        | {"layers": "eager", "device_ms": 160.0, "host_ms": 60.0},
        {"name": "memory of update, beside the plan", "peak_gb": 36.0, "planned_gb": 40.0},
    ],
    "linear_ce": [
        {"name": f"{name}, frozen head, 8192 rows", "package": name, "head": "frozen", "rows": 8192, "weighted": True}
        | {"device_ms": milliseconds, "host_ms": 1.0, "tflops": 500.0, "peak_gb": 3.0}
        for name, milliseconds in (("dmpo", 30.0), ("liger-kernel", 60.0))
    ]
    + [{"name": "target", "device_ms": 30.0, "target_ms": 29.0, "target": "missed"}],
    "published": [
        {"name": "block of 16 rows by topk, published", "side": "published", "decoder": "topk", "rows": 16}
        | {"width": 456, "block": 32, "steps": 16, "device_ms": 9000.0, "host_ms": 9000.0, "peak_gb": 60.0},
        {"name": "micro-batch of 4 x 456, published", "side": "published", "views": 4, "width": 456, "live": 512}
        | {"device_ms": 200.0, "host_ms": 60.0, "peak_gb": 40.0},
        {"name": "block of 16 rows by topk, ours beside published", "times_faster": 2.25, "times_leaner": 3.0},
    ],
}
HEADER = {
    "device": "NVIDIA H100 80GB HBM3",
    "date": "2026-12-01T00:00:00+00:00",
    "driver": "580.1",
    "commit": "0123456789abcdef",
    "versions": {"torch": "2.11.0", "triton": "3.6.0"},
}


def write_results(results: Path, slug: str = "nvidia-h100", **header: Any) -> None:
    """results/SLUG/gpu.json; header: what differs from `HEADER`."""
    folder = results / slug
    folder.mkdir(parents=True)
    parts = {name: {"state": "complete", "records": records} for name, records in PARTS.items()}
    (folder / "gpu.json").write_text(json.dumps({"header": HEADER | header, "failed": [], "parts": parts}))
