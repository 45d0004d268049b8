"""Completions in files that others have written: found in their records, whatever the fields are called."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..rewards.numbers import gold_number
from ..tasks import TASKS, Row, Task, load_task
from .ledger import FINGERPRINT

COMPLETIONS = ("completion", "completions", "generations", "generation", "response", "output", "prediction")
ANSWERS = ("ground_truth", "answer", "gold", "target", "solution")
PROMPTS = ("prompt", "question", "problem", "input")
_LISTS = ("generations", "results", "samples", "data", "records")  # where a JSON object keeps its records

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a JSON file (a list, or an object with a list of them), of JSON lines, or of all in a folder; of a
    folder of `dmpo eval` its results.jsonl.

    An object's `gen_length` is that of its records, where they have none of their own.

    Raises:
        ValueError: no such file, no records in it, or something that is no JSON object; names file and line.
    """
    if (path / FINGERPRINT).is_file():
        return read_records(path / "results.jsonl")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl"))
        records = [record for file in files for record in read_records(file)]
        if not records:
            raise ValueError(f"folder {path} holds no .json or .jsonl file")
        return records
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file {path} cannot be read: {error}") from error
    try:
        found = json.loads(text)
    except ValueError:
        found = _json_lines(path, text)
    if isinstance(found, dict):
        held = next((found[name] for name in _LISTS if isinstance(found.get(name), list)), None)
        if held is None or not all(isinstance(record, dict) for record in held):
            found = [found]
        else:
            shared = {"gen_length": found["gen_length"]} if "gen_length" in found else {}
            found = [shared | record for record in held]
    if not isinstance(found, list) or not found:
        raise ValueError(f"file {path} holds no records")
    for number, record in enumerate(found):
        if not isinstance(record, dict):
            raise ValueError(f"file {path}, record {number}: must be a JSON object, got {type(record).__name__}")
    return found


def field_of(record: Record, name: str | None, candidates: Sequence[str], what: str) -> Any:
    """The value under `name`, or under the first of the candidates that the record has.

    Raises:
        ValueError: there is none; says which fields there are.
    """
    for key in (name,) if name is not None else candidates:
        if record.get(key) is not None:
            return record[key]
    wanted = repr(name) if name is not None else f"any of {', '.join(candidates)}"
    raise ValueError(f"has no {what} ({wanted}); its fields are {', '.join(map(str, record))}")


def completions_of(record: Record, name: str | None) -> list[str]:
    """One completion, or several samples of one example; null is the empty text, which answers nothing."""
    names = COMPLETIONS if name is None else (name,)
    if any(key in record for key in names) and all(record.get(key) is None for key in names):
        return [""]
    value = field_of(record, name, COMPLETIONS, "completion")
    texts = ["" if text is None else text for text in (value if isinstance(value, list) else [value])]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"completion must be a text or a list of texts, got {value!r:.80}")
    return texts


def scorer(name: str, options: Mapping[str, Any]) -> Task:
    """A task that only reads and scores completions: of the shipped ones no data is loaded.

    Raises:
        ValueError: as `load_task`.
    """
    if name not in TASKS or options:
        return load_task(name, **options)
    scoring: Task = object.__new__(TASKS[name])  # without its rows: parse and solved ask for none
    return scoring


def row_of(task: str, record: Record, answer: str | None) -> Row:
    """The columns of a record that the task's score asks for.

    Raises:
        ValueError: they are not there, or no right answer can be read from them.
    """
    if isinstance(record.get("columns"), dict) and answer is None:  # of `dmpo eval` itself
        return dict(record["columns"])
    return _ROWS.get(task, _any_row)(record, answer)


def _any_row(record: Record, answer: str | None) -> Row:
    return record | {"answer": field_of(record, answer, ANSWERS, "right answer")}


def _number_row(record: Record, answer: str | None) -> Row:
    value = field_of(record, answer, ANSWERS, "right answer")
    if gold_number(value) is None:
        raise ValueError(f"right answer states no number: {value!r:.80}")
    return {"answer": value}


def _latex_row(record: Record, answer: str | None) -> Row:
    return {"answer": str(field_of(record, answer, ANSWERS, "right answer"))}


def _countdown_row(record: Record, answer: str | None) -> Row:
    """`numbers` (or `nums`) and `target`, or both as a pair in the answer."""
    named = [name for name in (answer, "ground_truth", "answer") if name is not None]
    pair: list[Any] = next((record[name] for name in named if isinstance(record.get(name), list)), [])
    if len(pair) != 2 or not isinstance(pair[0], list):
        pair = [field_of(record, None, ("numbers", "nums"), "numbers"), field_of(record, answer, ("target",), "target")]
    numbers, target = pair
    if isinstance(numbers, str):  # a table in text has no lists
        numbers = numbers.strip("[] ").replace(",", " ").split()
    try:
        return {"numbers": [int(number) for number in numbers], "target": int(target)}
    except (TypeError, ValueError):
        raise ValueError(f"must have a list of integers and an integer target, got {pair!r:.80}") from None


def _sudoku_row(size: int) -> Callable[[Record, str | None], Row]:
    grid = re.compile(rf"(?<![0-9.])[0-9.]{{{size * size}}}(?![0-9])")

    def row(record: Record, answer: str | None) -> Row:
        """`puzzle`, however spaced, or the last that is written in the prompt; holes are . or 0."""
        puzzle = record.get("puzzle")
        if isinstance(puzzle, str) and grid.fullmatch(together := "".join(puzzle.split())):
            return {"puzzle": together}
        found = grid.findall(str(field_of(record, None, ("puzzle", *PROMPTS), "puzzle")))
        if not found:
            raise ValueError(f"puzzle must be {size * size} digits and dots, and none is found")
        return {"puzzle": found[-1]}

    return row


def _json_lines(path: Path, text: str) -> list[Any]:
    records = []  # other ends of lines than \n may stand in a text
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"file {path}, line {number}: is no JSON: {error}") from error
    return records


_ROWS: dict[str, Callable[[Record, str | None], Row]] = {
    "gsm8k": _number_row,
    "math": _latex_row,
    "countdown": _countdown_row,
    "sudoku4": _sudoku_row(4),
    "sudoku9": _sudoku_row(9),
}
