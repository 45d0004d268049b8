"""Finished runs in benchmarks/results/study/runs.jsonl, a JSON object each, and what makes two runs equal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.harness.provenance import RESULTS
from dmpo.storage.whole_files import write_text

Record = dict[str, Any]
Key = tuple[str, int]  # name of the condition, seed


class Setting(Protocol):
    """A condition of some study: what its records are called, and the settings that they must have."""

    @property
    def name(self) -> str: ...

    def settings(self) -> dict[str, Any]: ...


S = TypeVar("S", bound=Setting)

STUDY = RESULTS / "study"
RUNS = STUDY / "runs.jsonl"


def load(path: Path) -> dict[Key, Record]:
    """Records by condition and seed; none where there is no file yet.

    Raises:
        ValueError: a line that is no record, or a run that is there twice.
    """
    if not path.exists():
        return {}
    found: dict[Key, Record] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            key = (record["condition"], record["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}, is no record of a run: {error}") from None
        if key in found:
            raise ValueError(f"{path} has {key[0]!r}, seed {key[1]}, twice; delete one of the lines")
        found[key] = record
    return found


def save(path: Path, records: Iterable[Record]) -> None:
    """Write all records, in order of condition and seed; the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(records, key=lambda record: (record["condition"], record["seed"]))
    write_text(path, "".join(json.dumps(record) + "\n" for record in ordered))


def check_same(record: Record, wanted: dict[str, Any], model: str) -> None:
    """Whether a record is of the run that is wanted: settings, and the digest of the model it starts from.

    Raises:
        ValueError: it is of another one; names the first difference.
    """
    where = f"the record of {record['condition']!r}, seed {record['seed']},"
    way = "take its line out of runs.jsonl to run it again"
    for key in sorted({*record["config"], *wanted}):
        before, now = (values.get(key, "at its default") for values in (record["config"], wanted))
        if before != now:
            raise ValueError(f"{where} has {key} {before!r}, and the study now wants {now!r}: {way}")
    if record["model"] != model:
        raise ValueError(f"{where} is of another embedded model ({record['model']}, now {model}): {way}")


def without_record(
    tasks: Iterable[tuple[S, int]], records: Mapping[Key, Record], model_of: Callable[[S, int], str]
) -> list[tuple[S, int]]:
    """The runs (condition, seed) that are still to do. model_of: the digest of the model that a run starts from.

    Raises:
        ValueError: a record is of other settings.
    """
    left = []
    for condition, seed in tasks:
        record = records.get((condition.name, seed))
        if record is None:
            left.append((condition, seed))
        else:
            check_same(record, condition.settings(), model_of(condition, seed))
    return left


def listed(tasks: Iterable[tuple[S, int]], left: Sequence[tuple[S, int]]) -> Iterator[str]:
    """A line for each run: whether it is done."""
    for condition, seed in tasks:
        yield f"{'to do' if (condition, seed) in left else 'done '} {condition.name}, seed {seed}"


def duration(seconds: Sequence[float], at_a_time: int) -> str:
    """How many runs there are to do, and about how long they take. seconds: of each on one core."""
    minutes = max(sum(seconds) / at_a_time, *seconds, 0) / 60  # a run is not shared out
    return f"runs to do: {len(seconds)}, {at_a_time} at a time, in about {minutes:.0f} min"
