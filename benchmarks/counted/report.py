"""What do the kernels compile to, and how much do they move, next to their peers? Answered with no GPU.

    python -m benchmarks --only report

Counts what meter.py says, under Triton's interpreter and so in a process of its own (ten minutes, most of them for
cut-cross-entropy), and compiles every production configuration (cubin.py, minutes, too). Neither depends on the device
or the hour: results of the same sources and versions are kept as they are, header and all. Peers are counted where they
are installed: pip install liger-kernel cut-cross-entropy. The Markdown starts with the answer.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.counted.comparison import compare_with_peers
from benchmarks.harness.child import in_own_process
from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import RESULTS, ROOT, packages_text
from benchmarks.harness.setting import Setting, about, versions

MASKED = 0.28
COUNTED_WITH: tuple[str, ...] = (
    "counted/meter.py",
    "counted/op_traffic.py",
    "counted/interpreter.py",
    "harness/peak_memory.py",
)
COUNTED_WITH += ("baselines/kernels.py",)
Rows = dict[str, Any]  # peer -> its figures


@dataclass(frozen=True)
class Size:
    """From logits: a few rows of positions. Linear: LLaDA's V / H = 31 and 28 % of positions masked, all smaller; 256
    masked rows (28 % of 457, twice) fill the largest row block of every peer, cut-cross-entropy's. drawn: rows."""

    logit_rows: int = 2
    logit_length: int = 8
    vocab: int = 126464
    linear_rows: int = 2
    linear_length: int = 457
    linear_hidden: int = 128
    linear_vocab: int = 3968
    drawn: int = 8


WHOLE, QUICK = Size(), Size(2, 4, 300, 2, 16, 16, 256, 2)


def compiled_from() -> str:
    """Digest of what compiled code depends on: Triton's version, the kernels, their launch parameters, their reader."""
    folder = ROOT / "kernels"
    kernels = re.compile(r"^@.*\bjit$|^def production\(", re.MULTILINE)
    sources = _files(folder)
    files = [path for path in sources if kernels.search(path.read_text())]
    files += [path for path in sources if path.relative_to(folder).parts[0] == "launch"]
    files.append(ROOT / "benchmarks" / "counted" / "cubin.py")
    return _digest(str(versions()["triton"]), *(path.read_text() for path in files))


def counted_from(*, peers_alone: bool = False) -> str:
    """Digest of what counts depend on: versions, the peers, the meter, what is metered and, for ours, the ops."""
    found = {name: versions()[name] for name in ("torch", "triton", "liger-kernel", "cut-cross-entropy")}
    files = [] if peers_alone else _files(ROOT / "kernels")
    files += [ROOT / "benchmarks" / name for name in COUNTED_WITH]
    here = (Size, count, meter_logits, meter_linear, meter_sampling, meter_all)
    return _digest(str(found), str(MASKED), *(path.read_text() for path in files), *map(inspect.getsource, here))


def _files(folder: Path) -> list[Path]:
    """The sources below a folder."""
    return sorted(folder.rglob("*.py"))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def compile_kernels(setting: Setting) -> list[dict[str, Any]]:
    """Figures of every production configuration, see `counted.cubin`."""
    from benchmarks.counted.cubin import compile_all, figures

    return figures(compile_all())


def measure(setting: Setting, known: Path = RESULTS / "kernel_report.json") -> dict[str, Any]:
    """Counts and compiled code; all of `known`, its header included, where both are of the same sources."""
    before = json.loads(known.read_text()) if known.is_file() and not setting.quick else {}
    sources = {"counted_from": counted_from(), "compiled_from": compiled_from()}
    sources["peers_counted_from"] = counted_from(peers_alone=True)
    same = {name: before.get(name) == digest for name, digest in sources.items()}
    if all(same.values()):
        print(f"{known.name} has the counts and the code of these sources; remove it to have them anew\n", flush=True)
        return dict(before)
    meter, compiled = before.get("meter"), [] if setting.quick else before.get("compiled")
    if not same["counted_from"]:
        kept = meter if same["peers_counted_from"] else None
        meter = in_own_process(meter_all, setting, environment={"TRITON_INTERPRET": "1"}, kept=kept)
    if not same["compiled_from"] and not setting.quick:
        compiled = in_own_process(compile_kernels, setting, environment={"TRITON_INTERPRET": None})
    return {**sources, "meter": meter, "compiled": compiled}


def count(job: Any, floor: dict[str, int], live: int) -> dict[str, Any]:
    """Ratios of one job's traffic to the floor of its problem, and what it moves and computes for each of its live rows
    (masked ones, or those drawn); an error is reported in its place."""
    from benchmarks.counted.meter import measure as measure_traffic
    from benchmarks.counted.meter import names

    try:
        with torch.compiler.set_stance("force_eager"):  # a peer's compiled helpers: their aten ops are what is counted
            measure_traffic(job)  # caches and autotuners first
            traffic = measure_traffic(job)
    except Exception as error:
        traceback.print_exc(limit=3)
        return {"error": f"{type(error).__name__}: {str(error)[:120]}"}
    return {
        "reads": traffic.bytes_read / floor["read"],
        "writes": traffic.bytes_written / floor["write"],
        "flops": traffic.flops / floor["flops"] if floor["flops"] else None,
        "peak": traffic.peak_bytes / floor["peak"],
        "launches": traffic.launches,
        "heaviest": names(traffic, 4),
        "bytes_read": traffic.bytes_read,
        "bytes_written": traffic.bytes_written,
        "peak_bytes": traffic.peak_bytes,
        "live_rows": live,
        "tiled_reads": traffic.tiled_read / floor["read"],
        "bytes_per_live_row": (traffic.bytes_read + traffic.bytes_written) / live,
        "flops_per_live_row": traffic.flops / live,
    }


def meter_logits(size: Size, masked: float, known: Rows) -> Rows:
    from benchmarks.baselines.kernels import LOGITS, load, make_loss_inputs

    found = dict(known)
    for peer in uncounted(load(LOGITS)[0], known):
        i = make_loss_inputs(size.logit_rows, size.logit_length, size.vocab, torch.bfloat16, "cpu", masked=masked)
        live = int(i.mask.sum())
        row = live * size.vocab * 2
        found[peer.name] = count(peer.build(i), {"read": row, "write": row, "flops": 0, "peak": row}, live)
    return found


def meter_linear(size: Size, trainable: bool, known: Rows) -> Rows:
    """As on a GPU. Packages in float16, which Triton's interpreter computes in; the others in LLaDA's bfloat16."""
    from benchmarks.baselines.kernels import LINEAR, interpretable_cut_cross_entropy, load, make_loss_inputs
    from benchmarks.counted.meter import as_on_a_gpu

    peers, found_versions = load(LINEAR)
    if found_versions["cut-cross-entropy"] != "not installed":
        interpretable_cut_cross_entropy()
    found = dict(known)
    for peer in uncounted(peers, known):
        dtype = torch.float16 if peer.package else torch.bfloat16
        shape = (size.linear_rows, size.linear_length, size.linear_vocab, dtype, "cpu")
        i = make_loss_inputs(*shape, masked=MASKED, hidden=size.linear_hidden, trainable_head=trainable)
        live, head = int(i.mask.sum()), size.linear_vocab * size.linear_hidden
        floor = {"read": head * 2, "write": head * 2, "flops": live * head, "peak": live * size.linear_vocab * 2}
        with as_on_a_gpu():
            found[peer.name] = count(peer.build(i), floor, live)
    return found


def meter_sampling(size: Size, temperature: float, known: Rows) -> Rows:
    from benchmarks.baselines.kernels import SAMPLING, load

    logits = (torch.randn(size.drawn, size.vocab, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    floor = {"read": logits.nbytes, "write": logits.nbytes, "flops": 0, "peak": logits.nbytes}
    peers = uncounted(load(SAMPLING)[0], known)
    return known | {peer.name: count(peer.build(logits, temperature), floor, size.drawn) for peer in peers}


def uncounted(peers: list[Any], known: Rows) -> list[Any]:
    return [peer for peer in peers if peer.name not in known]


def meter_all(setting: Setting, kept: dict[str, Rows] | None = None) -> dict[str, Rows]:
    """Every table of the meter: title -> peer -> figures. TRITON_INTERPRET must be set before Triton is imported.

    kept: tables whose peers, all but dmpo, are not counted again.
    """
    from benchmarks.counted.interpreter import quick_interpreter
    from dmpo.kernels import launch

    if not launch.paths.INTERPRETED:
        raise RuntimeError("the meter counts in Triton's interpreter, and TRITON_INTERPRET is not set")
    size = QUICK if setting.quick else WHOLE
    positions = size.linear_rows * size.linear_length
    masked = f"{positions} positions, {100 * MASKED:.0f} % masked, 16 bits"
    linear = f"H {size.linear_hidden}, V {size.linear_vocab}, {masked}"
    logits = f"From logits, forward and backward, {size.logit_rows * size.logit_length} positions"
    draw = f"{size.drawn} rows, V {size.vocab}, bf16"
    tables: dict[str, Callable[[Rows], Rows]] = {
        f"{logits}, all masked, V {size.vocab}, bf16": partial(meter_logits, size, 1.0),
        f"{logits}, 1 in 4 masked, V {size.vocab}, bf16": partial(meter_logits, size, 0.25),
        f"From hidden states, forward and backward, frozen head, {linear}": partial(meter_linear, size, False),
        f"From hidden states, forward and backward, trainable head, {linear}": partial(meter_linear, size, True),
        **{f"Sampling, T = {t:g}, {draw}": partial(meter_sampling, size, t) for t in (0.0, 0.2, 1.0)},
    }
    with quick_interpreter(), launch.plain_path(False):
        found = {}
        for title, table in list(tables.items())[:: 2 if setting.quick else 1]:
            before = (kept or {}).get(title, {})
            counted = table({name: row for name, row in before.items() if not name.startswith("dmpo")})
            found[title] = dict(sorted(counted.items(), key=lambda item: not item[0].startswith("dmpo")))
        return found


UNITS = """Counted as `benchmarks/counted/meter.py` says. From logits and sampling: reads, writes and peak in bytes of
the live logits, so 1.0 is each live logit read, or written, once; a dead row's gradient is zeros that autograd wants
written. From hidden states: reads and writes in bytes of lm_head, FLOPs in H·V per masked row (one matrix product is
2), peak in bytes of the masked rows' logits. Peak is the most that was allocated at once above the inputs, gradients
included. At these small sizes the masked rows' logits fit the one piece that dmpo may hold on a GPU (256 MiB, with a
trainable head and weights 1 GiB): peaks compare as a bound only from LLaDA's sizes on. From hidden states 256 rows are
masked, which fills the row blocks of every peer; those that do not gather masked rows meet them among the others. 16
bits are bf16, save for packages, whose kernels Triton's interpreter computes in fp16; bytes are as many. Matrix
products outside of Triton are counted at the least they can move, each operand once, while a Triton kernel's tiles
count each time they are read: that favours dmpo, whose products are torch's, over cut-cross-entropy, whose products are
its own. *Tiled* are the reads if torch's products went in tiles of 128 by 128 results, too. What is read again for
every tile grows with H: at H = 128 there is little of it."""


COMPILED = """{kernels} kernels, every variant an op can launch; {spilled} spill, {faults} with any fault. Kernels that
end on `_odd` are what logits get whose rows do not start on 16 bytes, as an odd vocabulary makes them: elements are
loaded one by one there. Those on `_one` handle rows gathered before the launch, or one column; on `_last` the
vocabulary's last tile; on `_far` strides of 2^31 and more."""


def answer(results: dict[str, Any]) -> str:
    """Where ours is at or below every peer, and where it is not."""
    found = compare_with_peers(results["meter"])
    parts = []
    for key in ("bytes", "FLOPs"):
        above = [s for s in found if not s.holds[key]]
        text = f"{key}: at or below every peer in {len(found) - len(above)} of {len(found)} problems"
        parts.append(text + "".join(f"; above in {s.title} ({s.ours})" for s in above))
    compiled = results["compiled"]
    if compiled:
        clean = sum(not row["faults"] for row in compiled)
        parts.append(f"{clean} of {len(compiled)} compiled kernels without spills or other faults")
    return ". ".join(parts) + "."


def meter_markdown(tables: dict[str, Any]) -> str:
    from benchmarks.baselines.kernels import LINEAR, LOGITS, easier

    parts = [UNITS, easier(LOGITS + LINEAR)]
    for title, peers in tables.items():
        rows = []
        for name, row in peers.items():
            if "error" in row:
                rows.append([name, f"not measured: {row['error']}", "", "", "", "", ""])
                continue
            flops = "–" if row["flops"] is None else f"{row['flops']:.2f}"
            counted = (f"{row[key]:.3f}" for key in ("reads", "tiled_reads", "writes"))
            rows.append([name, *counted, flops, f"{row['peak']:.2f}", str(row["launches"])])
        parts += [f"### {title}", table(["", "reads", "tiled", "writes", "FLOPs", "peak", "launches"], rows)]
    return "\n\n".join(parts)


def markdown(results: dict[str, Any]) -> str:
    """The report of what kernel_report.json holds."""
    from benchmarks.counted.cubin import Compiled, table_of_kernels

    compiled = results["compiled"]
    packages = packages_text(results["header"], ("triton", "liger-kernel", "cut-cross-entropy"))
    text = ["# Kernels: traffic and code", answer(results), f"{about(results)} {packages}."]
    text += ["## Traffic, FLOPs and memory", meter_markdown(results["meter"])]
    if compiled:
        rows = [Compiled(**{k: v for k, v in row.items() if k != "faults"}) for row in compiled]
        faults = sum(bool(row["faults"]) for row in compiled)
        spilled = sum(row.spills > 0 for row in rows)
        text += ["## Compiled code", COMPILED.format(kernels=len(rows), spilled=spilled, faults=faults)]
        text.append(table_of_kernels(rows))
    return "\n\n".join(text) + "\n"
