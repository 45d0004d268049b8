"""`dmpo eval --rescore`: saved completions are scored by the parsers of the tasks."""

from __future__ import annotations

from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ..config.errors import checked_config
from ..rewards.answers import without_special_tokens
from ..tasks import Row, scoring_task
from ..tasks.record_columns import PROMPTS, field_of, row_of
from ..tasks.records import Record
from ..tasks.sources import read_each
from ..tasks.verdict import Verdict, check_judges, judge, log_exceptions
from .results import show_table, summarise_cells, write_results
from .saved import completions_of, read_records


@checked_config
@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class RescoreConfig:
    """Keys of `dmpo eval --rescore FILE`.

    Records of different `gen_length` are counted separately. Special tokens at the end of a completion (`<|eot_id|>`)
    do not count. Records without a right answer are left out: a warning names them, and `left_out` in results.json
    counts them. Results of `dmpo eval` need none of the keys completion, answer and prompt.
    """

    file: str
    """JSON (a list of records, or an object with one, as {"generations": [...]}), JSON lines, samples of lm-eval
    (`samples_*.jsonl`), or a folder of them, or the output_dir of a `dmpo eval`"""
    task: str
    """whose parser and score to use"""
    task_options: dict[str, Any] = field(default_factory=dict)
    """arguments of the task"""
    completion: str | None = None
    """field of a record, null for the usual names (`saved.COMPLETIONS`); a list holds samples of one example"""
    answer: str | None = None
    """field of a record, null for the usual names (`record_columns.ANSWERS`)"""
    prompt: str | None = None
    """field of a record, null for the usual names (`record_columns.PROMPTS`)"""
    pass_at: list[int] = field(default_factory=lambda: [1])
    """the k of every pass@k to report"""
    output_dir: str | None = None
    """where results.jsonl, .json, .md and .png go; null only prints"""


def rescore(config: RescoreConfig) -> dict[str, Any]:
    """Score a file's completions, print the table and return the content of results.json.

    Raises:
        ValueError: a file, record or task cannot be used; most records of a file have no readable right answer; or
            output_dir is not empty.
    """
    folder = None if config.output_dir is None else Path(config.output_dir)
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output_dir {folder} exists and is not an empty folder: give another folder")
    task = scoring_task(config.task, **config.task_options)
    check_judges(config.task, task)
    records = [
        (number, record)
        for number, record in enumerate(read_records(Path(config.file)))
        if "columns" not in record or record.get("task") == config.task  # of `dmpo eval`, perhaps with other tasks
    ]
    scored = read_each(records, f"file {config.file}", partial(_with_row, config), "record")
    lines: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    for number, record, row in scored:
        own = "columns" in record
        try:
            texts = completions_of(record, config.completion)
            prompt = None if config.prompt is None else field_of(record, config.prompt, (), "prompt")
        except ValueError as error:
            raise ValueError(f"file {config.file}, record {number}: {error}") from None
        if prompt is None:
            prompt = next((record[name] for name in PROMPTS if name in record), None)
        length = record.get("gen_length")  # files of several make several cells
        for sample, text in enumerate(texts):
            where = {"task": config.task, "split": None, "index": number, "sample": sample}
            where |= {"gen_length": length if isinstance(length, int) else None, "decoder": None}
            if own:
                where |= {name: record[name] for name in where if name in record}
            verdicts.append(verdict := judge(task, text if own else without_special_tokens(text), row))
            line = {**where, "prompt": prompt, "completion": text, "answer": verdict.answer}
            lines.append({**line, "score": float(bool(verdict.solved)), "failure": verdict.failure})
    if not lines:
        raise ValueError(f"file {config.file} holds no completion of task {config.task}")
    if all(verdict.failure == "exception" for verdict in verdicts):
        raise ValueError(f"task {config.task} raises on every completion of {config.file}: {verdicts[0].message}")
    log_exceptions(task, verdicts)
    summarised = summarise_cells(lines, config.pass_at)
    title = f"{config.file}, {config.task}"
    left_out = len(records) - len(scored)
    summary = {"file": config.file, "task": config.task, "left_out": left_out, "cells": summarised}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, lines, summary, title)
    show_table(summarised, f"{title}, 95 % intervals")
    return summary


def _with_row(config: RescoreConfig, numbered: tuple[int, Record]) -> tuple[int, Record, Row]:
    number, record = numbered
    return number, record, row_of(config.task, record, config.answer)
