"""How do the figures compare with the published code, the peers and the targets? A table, from JSON alone.

`python -m benchmarks.readme --write` puts it into docs/results.md.

A table for each device with a folder in benchmarks/results/, then one of counted traffic, which needs no device. For
missing figures it says "not measured".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.counted.comparison import EQUAL, compare_with_peers
from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import RESULTS, packages_text, short_commit

HEAD = ("", "ours", "published", "times better", "target")
PARTS = {"decoders": "decoders", "step": "step", "rl_step": "rl", "remask": "remask"}  # file -> part


def of_device(folder: Path) -> str:
    """The table of one device's folder of results."""
    found = {name: _read(folder / f"{name}.json") for name in PARTS}
    makers = {"decoders": _decoders, "step": _step, "rl_step": _rl_step, "remask": _remask}
    rows: list[list[str]] = []
    for name, maker in makers.items():
        results = found[name]
        missing = [name, f"not measured: `python -m benchmarks --only {PARTS[name]}`", "", "", ""]
        rows += list(maker(results)) if results else [missing]
    measured = [results["header"] for results in found.values() if results]
    return "\n".join([*_title(measured, folder.name), "", table(HEAD, rows)]) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _title(headers: list[dict[str, Any]], slug: str) -> Iterator[str]:
    """Device, versions, dates, commits and load of all parts."""
    if not headers:
        yield f"**{slug}**: nothing measured."
        return

    def each(values: Any) -> str:
        return ", ".join(dict.fromkeys(values))

    commits = each(map(short_commit, headers))
    low, high = min(h["load_average"][0] for h in headers), max(h["load_average"][1] for h in headers)
    cores = headers[0]["cores"]
    yield (
        f"**{headers[0]['device']}** ({each(h['processor'] for h in headers)}), "
        f"torch {each(h['versions']['torch'] for h in headers)}, {each(h['date'][:10] for h in headers)}, "
        f"commit {commits}; load average {low:.1f} to {high:.1f} on {cores} cores."
    )
    if high > cores + 0.5:
        yield "Other work ran beside this: single figures may be off by several times."


def _decoders(results: dict[str, Any]) -> Iterator[list[str]]:
    shape = results["shape"]
    for run in results["runs"]:
        name = (
            f"rollout of {shape['batch']} × {shape['gen_length']} tokens, {run['decoder']}, T = {run['temperature']:g}"
        )
        if run["same_tokens"] is not None:
            name += f", {run['same_tokens']:.1%} of tokens the same"
        seconds = [run[side]["seconds_best"] for side in ("ours", "published")]
        yield _row(name, [f"{value:.3g} s" for value in seconds], run["ratio"], run["target_ratio"])


def _step(results: dict[str, Any]) -> Iterator[list[str]]:
    ours, published = (results["variants"][side] for side in ("ours", "published"))
    targets, shape = results["targets"], results["shape"]
    name = f"training step, {shape['rows']} × {shape['length']} positions"
    seconds = [f"{side['seconds_best']:.3g} s" for side in (ours, published)]
    yield _row(f"{name}: time", seconds, results["times_faster"], targets["times_faster"])
    memory = [_megabytes(side["bytes"]) for side in (ours, published)]
    yield _row(f"{name}: memory", memory, 1 / results["memory_share"], 1 / targets["memory_share"])


def _rl_step(results: dict[str, Any]) -> Iterator[list[str]]:
    ours, published, settings = results["ours"], results["published"], results["settings"]
    name = f"RL step, {settings['num_prompts']} × {settings['num_generations']} × {settings['gen_length']} tokens"
    for phase, ratio in results["times_faster_by_phase"].items():
        seconds = [f"{side['phases'][phase]['seconds']:.3g} s" for side in (ours, published)]
        yield _row(f"{name}: {phase}", seconds, ratio)
    seconds, memory = (
        [f"{side['seconds']:.3g} s" for side in (ours, published)],
        [_megabytes(side["bytes"]) for side in (ours, published)],
    )
    yield _row(f"{name}: all", seconds, results["times_faster"])
    yield _row(f"{name}: memory", memory, results["times_leaner"])


def _remask(results: dict[str, Any]) -> Iterator[list[str]]:
    shape, worst = results["shape"], min(results["rules"], key=lambda row: row["ratio"])
    times = [f"{worst[name]:.0f} µs" for name in ("microseconds", "loop_microseconds")]
    name = f"remasking {shape['rows']} × {shape['length']}, the least favourable rule"
    yield _row(name, times, worst["ratio"], results["target"])


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _row(name: str, sides: Sequence[str], ratio: float, target: float | None = None) -> list[str]:
    verdict = "" if target is None else f"≥ {target:.3g}: {'met' if ratio >= target else 'MISSED'}"
    return [name, *sides, f"{ratio:.1f}", verdict]


def of_traffic(results: dict[str, Any]) -> str:
    """Bytes and FLOPs of a live row: ours, and the peer with the fewest, for each problem."""
    packages = packages_text(results["header"], ("torch", "triton", "liger-kernel", "cut-cross-entropy"))
    title = (
        f"**Counted in Triton's interpreter** (no device; {packages}), for each live row, a masked one or one drawn. "
        f"Target: at or below every peer; within {EQUAL - 1:.0%} is equal."
    )
    head = ["", "ours", "fewest bytes of a peer", "target", "ours", "fewest FLOPs of a peer", "target"]
    rows = []
    for s in compare_with_peers(results["meter"]):
        name = s.title + ("" if s.weighted else ", no weight for each sample")
        cells = [_kilobytes(s.bytes), f"{_kilobytes(s.least_bytes)} ({s.least_bytes_peer})", _met(s.holds["bytes"])]
        if s.least_flops:
            cells += [f"{s.flops / 1e6:.3g} M", f"{s.least_flops / 1e6:.3g} M ({s.least_flops_peer})"]
            cells.append(_met(s.holds["FLOPs"]))
        else:
            cells += ["–", "–", ""]
        rows.append([name, *cells])
    return f"{title}\n\n{table(head, rows)}\n"


def _kilobytes(count: float | None) -> str:
    return "–" if count is None else f"{count / 1e3:.4g} kB"


def _met(holds: bool) -> str:
    return "met" if holds else "MISSED"


def markdown(root: Path = RESULTS) -> str:
    """All tables of a folder of results."""
    devices = sorted(path for path in root.iterdir() if any((path / f"{name}.json").is_file() for name in PARTS))
    parts = [of_device(folder) for folder in devices]
    traffic = _read(root / "kernel_report.json")
    parts += [of_traffic(traffic)] if traffic else ["Traffic: not counted, `python -m benchmarks --only report`.\n"]
    return "\n".join(parts)
