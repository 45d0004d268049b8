"""What do the kernels compile to, and how many bytes do they move, compared with their peers? Answered without a GPU.

    python -m benchmarks --only report

Runs meter.py under Triton's interpreter in a process of its own (ten minutes, most of them for cut-cross-entropy), and
compiles every production configuration (cubin.py, some minutes). Neither result depends on the machine or the time:
results of the same sources and versions stay as they are, with their header. Peers that are installed are counted: pip
install liger-kernel cut-cross-entropy. The Markdown starts with the answer.
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
COUNTED_WITH = (
    "counted/meter.py",
    "counted/op_traffic.py",
    "counted/interpreter.py",
    "harness/peak_memory.py",
    "baselines/kernels.py",
)
Rows = dict[str, Any]  # peer -> its figures


@dataclass(frozen=True)
class Size:
    """From logits: a few rows of positions. Linear: smaller than LLaDA, with its V / H = 31 and 28 % of positions
    masked; 256 masked rows (28 % of 457, twice) fill the largest row block of a peer, which cut-cross-entropy has.
    drawn: rows of logits for a draw."""

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
    """Digest of the sources of compiled code: Triton's version, the kernels, their launch parameters, `cubin`."""
    folder = ROOT / "kernels"
    kernels = re.compile(r"^@.*\bjit$|^def production\(", re.MULTILINE)
    sources = _files(folder)
    files = [path for path in sources if kernels.search(path.read_text())]
    files += [path for path in sources if path.relative_to(folder).parts[0] == "launch"]
    files.append(ROOT / "benchmarks" / "counted" / "cubin.py")
    return _digest(str(versions()["triton"]), *(path.read_text() for path in files))


def counted_from(*, peers_alone: bool = False) -> str:
    """Digest of the sources of counts: versions, the peers, the meter, the metered problems and, for dmpo, the ops."""
    packages = {name: versions()[name] for name in ("torch", "triton", "liger-kernel", "cut-cross-entropy")}
    files = [] if peers_alone else _files(ROOT / "kernels")
    files += [ROOT / "benchmarks" / name for name in COUNTED_WITH]
    here: tuple[Any, ...] = (Size, count, meter_logits, meter_linear, meter_sampling, meter_all)
    return _digest(str(packages), str(MASKED), *(path.read_text() for path in files), *map(inspect.getsource, here))


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
    """Counts and compiled code. If both are of the same sources as in `known`, all of it, with its header."""
    before = json.loads(known.read_text()) if known.is_file() and not setting.quick else {}
    sources = {"counted_from": counted_from(), "compiled_from": compiled_from()}
    sources["peers_counted_from"] = counted_from(peers_alone=True)
    same = {name: before.get(name) == digest for name, digest in sources.items()}
    if all(same.values()):
        print(f"{known.name} has the counts and the code of these sources; remove it to count again\n", flush=True)
        return dict(before)
    meter, compiled = before.get("meter"), [] if setting.quick else before.get("compiled")
    if not same["counted_from"]:
        earlier = meter if same["peers_counted_from"] else None
        meter = in_own_process(meter_all, setting, environment={"TRITON_INTERPRET": "1"}, earlier=earlier)
    if not same["compiled_from"] and not setting.quick:
        compiled = in_own_process(compile_kernels, setting, environment={"TRITON_INTERPRET": None})
    return {**sources, "meter": meter, "compiled": compiled}


def count(job: Any, floor: dict[str, int], live: int) -> dict[str, Any]:
    """Ratios of one job's traffic to the floor of its problem, and bytes and FLOPs for each live row (a masked row, or
    a row of a draw); for a job that fails, the error."""
    from benchmarks.counted.meter import measure as measure_traffic
    from benchmarks.counted.meter import names

    try:
        with torch.compiler.set_stance("force_eager"):  # count the aten ops of a peer's compiled helpers
            measure_traffic(job)  # fills caches, runs autotuners
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

    counts = dict(known)
    for peer in uncounted(load(LOGITS)[0], known):
        i = make_loss_inputs(size.logit_rows, size.logit_length, size.vocab, torch.bfloat16, "cpu", masked=masked)
        live = int(i.mask.sum())
        row = live * size.vocab * 2
        counts[peer.name] = count(peer.build(i), {"read": row, "write": row, "flops": 0, "peak": row}, live)
    return counts


def meter_linear(size: Size, trainable: bool, known: Rows) -> Rows:
    """Counts as on a GPU: packages in float16, because Triton's interpreter computes in it; the others in bfloat16."""
    from benchmarks.baselines.kernels import LINEAR, interpretable_cut_cross_entropy, load, make_loss_inputs
    from benchmarks.counted.meter import as_on_a_gpu

    peers, package_versions = load(LINEAR)
    if package_versions["cut-cross-entropy"] != "not installed":
        interpretable_cut_cross_entropy()
    counts = dict(known)
    for peer in uncounted(peers, known):
        dtype = torch.float16 if peer.package else torch.bfloat16
        shape = (size.linear_rows, size.linear_length, size.linear_vocab, dtype, "cpu")
        i = make_loss_inputs(*shape, masked=MASKED, hidden=size.linear_hidden, trainable_head=trainable)
        live, head = int(i.mask.sum()), size.linear_vocab * size.linear_hidden
        floor = {"read": head * 2, "write": head * 2, "flops": live * head, "peak": live * size.linear_vocab * 2}
        with as_on_a_gpu():
            counts[peer.name] = count(peer.build(i), floor, live)
    return counts


def meter_sampling(size: Size, temperature: float, known: Rows) -> Rows:
    from benchmarks.baselines.kernels import SAMPLING, load

    logits = (torch.randn(size.drawn, size.vocab, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    floor = {"read": logits.nbytes, "write": logits.nbytes, "flops": 0, "peak": logits.nbytes}
    peers = uncounted(load(SAMPLING)[0], known)
    return known | {peer.name: count(peer.build(logits, temperature), floor, size.drawn) for peer in peers}


def uncounted(peers: list[Any], known: Rows) -> list[Any]:
    return [peer for peer in peers if peer.name not in known]


def meter_all(setting: Setting, earlier: dict[str, Rows] | None = None) -> dict[str, Rows]:
    """Every table of the meter: title -> peer -> figures. TRITON_INTERPRET must be set before Triton is imported.

    earlier: tables whose counts stay, except the counts of dmpo.
    """
    from benchmarks.counted.interpreter import quick_interpreter
    from dmpo.kernels import launch

    if not launch.paths.INTERPRETED:
        raise RuntimeError("the meter counts in Triton's interpreter, but TRITON_INTERPRET is not set; set it to 1")
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
        counted = {}
        for title, table in list(tables.items())[:: 2 if setting.quick else 1]:
            before = (earlier or {}).get(title, {})
            rows = table({name: row for name, row in before.items() if not name.startswith("dmpo")})
            counted[title] = dict(sorted(rows.items(), key=lambda item: not item[0].startswith("dmpo")))
        return counted


UNITS = """`benchmarks/counted/meter.py` says how things are counted. From logits, and in sampling, the unit of reads,
writes and peak is the bytes of the live logits: 1.0 means that each live logit is read, or written, once. Autograd also
wants the gradient of a dead row: zeros, which are written. From hidden states the unit of reads and writes is the bytes
of lm_head, the unit of FLOPs is H·V per masked row (one matrix product is 2), and the unit of peak is the bytes of the
masked rows' logits. Peak is the highest sum of allocations without the inputs, gradients included. At these small sizes
the masked rows' logits fit into one row chunk of dmpo on a GPU (256 MiB; with a trainable head and weights 1 GiB), so
peaks compare only at LLaDA's sizes and above. From hidden states 256 rows are masked, which fills the row blocks of
every peer. A peer that does not gather masked rows reads them among the other rows. 16 bits are bf16, except for
packages: Triton's interpreter computes their kernels in fp16, with the same number of bytes. A matrix product outside
Triton is counted at its least traffic, each operand once, but a tile in a Triton kernel counts each time it is read.
That favours dmpo, which uses torch's products, over cut-cross-entropy, which has products of its own. The column
*tiled* has the reads if torch's products, too, read their operands for every tile of 128 by 128 results. These further
reads grow with H: at H = 128 they are few."""


COMPILED = """{kernels} kernels, every variant that an op can launch; {spilled} spill, {faults} with any fault. A kernel
whose name ends on `_odd` reads logits whose rows do not start on 16 bytes, as with an odd vocabulary: it loads elements
one by one. A kernel on `_one` handles rows that were gathered before the launch, or one column; on `_last` the
vocabulary's last tile; on `_far` strides of 2^31 and more."""


def answer(results: dict[str, Any]) -> str:
    """In how many problems dmpo is at or below every peer, and in which ones it is above."""
    comparisons = compare_with_peers(results["meter"])
    sentences = []
    for key in ("bytes", "FLOPs"):
        above = [s for s in comparisons if not s.holds[key]]
        text = f"{key}: at or below every peer in {len(comparisons) - len(above)} of {len(comparisons)} problems"
        sentences.append(text + "".join(f"; above in {s.title} ({s.ours})" for s in above))
    compiled = results["compiled"]
    if compiled:
        clean = sum(not row["faults"] for row in compiled)
        sentences.append(f"{clean} of {len(compiled)} compiled kernels without spills or other faults")
    return ". ".join(sentences) + "."


def meter_markdown(tables: dict[str, Any]) -> str:
    from benchmarks.baselines.kernels import LINEAR, LOGITS, easier

    paragraphs = [UNITS, easier(LOGITS + LINEAR)]
    for title, peers in tables.items():
        rows = []
        for name, row in peers.items():
            if "error" in row:
                rows.append([name, f"not measured: {row['error']}", "", "", "", "", ""])
                continue
            flops = "–" if row["flops"] is None else f"{row['flops']:.2f}"
            counted = (f"{row[key]:.3f}" for key in ("reads", "tiled_reads", "writes"))
            rows.append([name, *counted, flops, f"{row['peak']:.2f}", str(row["launches"])])
        paragraphs += [f"### {title}", table(["", "reads", "tiled", "writes", "FLOPs", "peak", "launches"], rows)]
    return "\n\n".join(paragraphs)


def markdown(results: dict[str, Any]) -> str:
    """The report of the figures in kernel_report.json."""
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
