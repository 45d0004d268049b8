"""What was measured on a GPU: paragraphs of docs/results.md, from the records of `python -m benchmarks.gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.measurements import Measurement, Record
from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import packages_text, short_commit

PACES = (2, 1)  # tokens a step that a row of the table is of: of a decoder that takes one a step, one


def summary(seen: Measurement) -> str:
    """Paragraphs on LLaDA-8B's tokens a second, its losses, updates and memory; of what was measured alone."""
    found = [_title(seen), _rates(seen), " ".join([*_losses(seen), *_updates(seen), *_published(seen)])]
    return "\n\n".join(filter(None, found))


def _title(seen: Measurement) -> str:
    head = seen.header
    driver = f"driver {head['driver']}" if head.get("driver") else ""
    commit = f"commit {short_commit(head)}" if head.get("commit") else None
    facts = (driver, packages_text(head, ("torch", "triton")), head["date"][:10], commit)
    return f"**Measured on {head['device']}** ({', '.join(filter(None, facts))})."


def _rates(seen: Measurement) -> str:
    """A table of tokens a second by decoder and batch, adapters or not."""
    records = [record for record in seen.parts.get("llada_8b", []) if any(_pace_key(n) in record for n in PACES)]
    if not records:
        return ""
    batches = sorted({record["rows"] for record in records})
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for record in records:
        pace = next(n for n in PACES if record.get(_pace_key(n)) is not None)
        key = (record["decoder"] + ("" if pace == PACES[0] else f", {pace} token a step"), record["adapters"])
        cells.setdefault(key, {})[record["rows"]] = f"{record[_pace_key(pace)]:,.0f}"
    title = (
        f"LLaDA-8B's shapes, random bfloat16 weights, completions of 256 tokens, {PACES[0]} tokens a step; tokens a "
        "second, derived from timed steps:"
    )
    head = ["decoder", "adapters", *(f"batch {rows}" for rows in batches)]
    rows = ([*key, *(rates.get(batch, "–") for batch in batches)] for key, rates in cells.items())
    return f"{title}\n\n{table(head, rows)}"


def _pace_key(tokens: int) -> str:
    return f"tokens_per_s_at_{tokens}"


def _losses(seen: Measurement) -> Iterator[str]:
    """The largest number of rows, the frozen head: dmpo beside the others, those with a weight for each sample."""
    records = [
        x for x in seen.records("linear_ce", "package", "head", "rows", "weighted", "device_ms") if x["weighted"]
    ]
    frozen = [record for record in records if record["head"] == "frozen"]
    most = max((record["rows"] for record in frozen), default=0)
    times = {record["package"]: record["device_ms"] for record in frozen if record["rows"] == most}
    if "dmpo" in times:
        rest = ", ".join(f"{package} {value:.1f}" for package, value in times.items() if package != "dmpo")
        beside = f" ({rest})" if rest else ""
        target = next(iter(seen.records("linear_ce", "target_ms", "target")), None)
        reached = f"; the target of {target['target_ms']:g} ms is {target['target']}" if target else ""
        yield f"Linear cross-entropy of {most} rows, head frozen, takes {times['dmpo']:.1f} ms{beside}{reached}."


def _updates(seen: Measurement) -> Iterator[str]:
    for record in seen.records("llada_8b", "views", "width", "device_ms"):
        yield f"A micro-batch of {record['views']} × {record['width']} tokens takes {record['device_ms']:.0f} ms."
    for record in seen.records("llada_8b", "peak_gb", "planned_gb"):
        if record["peak_gb"] is not None:
            yield f"{_sentence(record)} is {record['peak_gb']:.1f} GB, {record['planned_gb']:.1f} GB planned."


def _sentence(record: Record) -> str:
    name: str = record["name"].split(",")[0]
    return name[0].upper() + name[1:]


def _published(seen: Measurement) -> Iterator[str]:
    records: list[dict[str, Any]] = seen.records("published", "times_faster")
    if records:
        yield f"Beside the published algorithm on the same shapes: {'; '.join(map(_beside_published, records))}."


def _beside_published(record: Record) -> str:
    text = f"{record['name'].split(', ours')[0]} {record['times_faster']:.1f} times faster"
    leaner = record.get("times_leaner")
    return text if leaner is None else f"{text}, peak memory {1 / leaner:.0%}"
