"""The results of an evaluation on the page: accuracies of each cell, and completions that were right or wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.results import summarise_cells, table_rows
from .completions import Prompts, body
from .lines import read_at, read_lines
from .values import number_of, text_of, whole_of

MOST_COMPLETIONS = 4_000  # that a page holds
_CELL = ("task", "split", "gen_length", "decoder")
_NEEDED = (*_CELL, "index", "sample", "completion", "answer", "score", "failure")
_LONGEST_LABEL = 200
_OF_A_RUN = ("metrics.jsonl", "timings.jsonl", "completions.jsonl", "held_out.jsonl")


@dataclass
class Results:
    """One results.jsonl, read. `lines` have what the accuracies need, and `offset`, in bytes, of the whole line."""

    path: Path
    name: str
    lines: list[dict[str, Any]]
    complaints: list[str]


def read_results(path: Path, name: str) -> Results:
    """Read the results of `dmpo eval` or of `dmpo eval --rescore`, except for the texts.

    Raises:
        ValueError: the file has another format.
    """
    if not path.is_file():
        raise ValueError(f"no such file: {path}; give the results.jsonl of dmpo eval")
    missing: list[str] = []

    def keep(offset: int, line: dict[str, Any]) -> dict[str, Any]:
        missing.extend(key for key in _NEEDED if key not in line and not missing)
        kept = {key: _label(line.get(key)) for key in (*_CELL, "index", "sample", "failure")}
        kept |= {"answer": None if line.get("answer") is None else True, "score": number_of(line.get("score")) or 0}
        return {**kept, "offset": offset}

    lines, complaint = read_lines(path, keep)
    if missing or not lines:
        why = f"its lines have no {missing[0]!r}" if missing else "it has no line that is a JSON object"
        hint = "give the results.jsonl of dmpo eval"
        if path.name in _OF_A_RUN:
            hint = f"to look at a run, give its folder: dmpo view {path.parent}"
        raise ValueError(f"{path} is no file of results of an evaluation: {why}; {hint}")
    return Results(path, name, lines, [complaint] if complaint else [])


def cell_table(results: Sequence[Results]) -> dict[str, Any]:
    """{header, rows, bars}: the table of accuracies, a row for each cell; bars are {label, source, value, low, high}.

    Raises:
        ValueError: examples of a cell have different numbers of completions.
    """
    cells = []
    for source, file in enumerate(results):
        samples = min(Counter((*(line[key] for key in _CELL), line["index"]) for line in file.lines).values())
        try:
            cells += [(source, cell) for cell in summarise_cells(file.lines, sorted({1, samples}))]
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}; wait for the evaluation to end") from None
    names = [key for key in _CELL if len({cell[key] for _, cell in cells}) > 1]
    bars = []
    for source, cell in cells:
        where = [results[source].name] if len(results) > 1 else []
        where += [str(cell[key]) for key in names] or [str(cell["task"])]
        for key in (key for key in cell if key.startswith("pass@")):
            label = " · ".join([*where, *([key] if cell["samples"] > 1 else [])])
            estimate = {name: number_of(cell[key][name]) for name in ("value", "low", "high")}
            bars.append({"label": label, "source": source, **estimate})
    ks = {key for _, cell in cells for key in cell if key.startswith("pass@")}
    rows = []
    for source, cell in cells:
        shown = {key: value for key, value in cell.items() if not key.startswith("pass@") or key in ks}
        header, row = table_rows([shown])
        rows.append((results[source].name, dict(zip(header, row, strict=True))))
    header = list(dict.fromkeys(name for _, row in rows for name in row))
    table = [[name, *(row.get(column, "") for column in header)] for name, row in rows]
    return {"header": ["file", *header], "rows": table, "bars": bars}


def results_gallery(results: Sequence[Results], most: int = MOST_COMPLETIONS) -> dict[str, Any]:
    """The completions of one prompt beside each other; prompts that the fewest completions solve come first."""
    prompts = Prompts()
    by_prompt: dict[tuple[str, int], list[tuple[int, dict[str, Any]]]] = {}
    for source, file in enumerate(results):
        for line in file.lines:
            by_prompt.setdefault((str(line["task"]), whole_of(line["index"]) or 0), []).append((source, line))
    total, shown, groups = sum(len(file.lines) for file in results), 0, []
    examples = list(by_prompt)
    if total > most:
        examples = examples[:: -(-total // most)]
    for task, index in examples:
        placed = by_prompt[task, index]
        shown += len(placed)
        texts = [read_at(results[source].path, [line["offset"]])[0] or {} for source, line in placed]
        cards = [_card(line, results[source].name, source) for (source, _), line in zip(placed, texts, strict=True)]
        right = sum(card["verdict"] for card in cards) / len(cards)
        heading = f"{task} example {index}"
        prompt = prompts.index(next((line["prompt"] for line in texts if line.get("prompt") is not None), ""))
        groups.append((right, {"heading": heading, "prompt": prompt, "cards": cards}))
    groups.sort(key=lambda group: group[0])
    names = ("file", *_CELL, "verdict")
    return {
        "title": "Completions",
        "remark": f"{shown:,} of {total:,} completions, evenly over the examples" if shown < total else "",
        "filters": [{"name": name, "label": name.replace("_", " ")} for name in names],
        "numbers": [
            {
                "name": "tokens",
                "label": "tokens",
                "meaning": "tokens that were drawn, and not overwritten after an EOS",
            },
            {"name": "steps", "label": "steps", "meaning": "model calls of the completion"},
        ],
        "orders": ["least solved first", "most solved first"],
        "groups": [group for _, group in groups],
        "prompts": list(prompts.texts),
    }


def _label(value: Any) -> Any:
    """A value by which lines are told apart: a list or an object, which dmpo never writes there, becomes a text."""
    return text_of(value, _LONGEST_LABEL) if isinstance(value, list | dict) else value


def _card(line: Mapping[str, Any], file: str, source: int) -> dict[str, Any]:
    verdict = (number_of(line.get("score")) or 0) > 0
    failure, answer = line.get("failure"), line.get("answer")
    word = "right" if verdict else f"wrong: {text_of(failure, 60)}" if failure else "wrong"
    if not verdict and not failure and answer is None:
        word = "wrong: no answer"
    place = [f"{line[key]}" for key in ("gen_length", "decoder") if line.get(key) is not None]
    sample = line.get("sample")
    return {
        "heading": " · ".join([*place, f"sample {sample}"]),
        "source": source,
        "verdict": verdict,
        "labels": [file, *(str(line.get(key)) for key in _CELL), word],
        "numbers": [number_of(line.get("tokens")), number_of(line.get("steps"))],
        "notes": [f"answer: {text_of(answer, 500)}"] if answer is not None else [],
        **body({**line, "tokens": None}),
    }
