"""If these fail, one text that a user's task cannot read ends an evaluation, or a run hours later."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmpo.cli import main
from dmpo.pretrain import character_tokenizer
from dmpo.run.preflight import check_task
from dmpo.tasks.verdict import Verdict, judge
from tests.evaluation.toys import Ones, checkpoint
from tests.small_runs import settings


class Fragile(Ones):
    """Takes for granted that there is a word, and that it is short."""

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        return completion.split()[0] == "1"

    def parse(self, completion: str, row: dict[str, Any]) -> str | None:
        return {1: completion}[len(completion)]


class Overlong(Ones):
    """Cannot read what it scores."""

    parse = Fragile.parse


FRAGILE = f"{__name__}:Fragile"
WRONG = "which count as wrong; the first:"


def test_what_a_task_raises_counts_as_wrong() -> None:
    task = Fragile()
    assert judge(task, "1", {}) == Verdict(True, "1")
    assert judge(task, "2", {}) == Verdict(False, "2")
    assert judge(task, " ", {}) == Verdict(False, None, "exception", "IndexError: list index out of range")
    assert judge(Overlong(), "11", {}) == Verdict(False, None, "exception", "KeyError: 2")
    with pytest.raises(KeyboardInterrupt):
        judge(SimpleNamespace(solved=interrupted), "1", {})


def interrupted(completion: str, row: dict[str, Any]) -> bool:
    raise KeyboardInterrupt


def test_an_evaluation_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = checkpoint(tmp_path / "model")
    arguments = [f"tasks={FRAGILE}", "gen_lengths=16", "limit=3", f"output_dir={tmp_path / 'eval'}"]
    assert main(["eval", str(model), *arguments]) == 0
    lines = [json.loads(line) for line in (tmp_path / "eval" / "results.jsonl").read_text().splitlines()]
    assert [line["failure"] for line in lines] == ["exception"] * 3, "texts of 16 tokens are too long for it"
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["cells"][0]["failures"] == 3
    assert all("raised on" in message and WRONG in message for message in caplog.messages)
    assert caplog.messages


def test_a_rescore_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file := tmp_path / "saved.jsonl").write_text(
        "".join(json.dumps({"completion": text, "answer": ""}) + "\n" for text in ("", "1", "2", "11"))
    )
    assert main(["eval", "--rescore", str(file), f"task={FRAGILE}", f"output_dir={tmp_path / 'out'}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(line["score"], line["failure"]) for line in lines] == [
        (0.0, "exception"),
        (1.0, None),
        (0.0, None),
        (0.0, "exception"),
    ]
    assert caplog.messages == [
        f"task Fragile raised on 2 of 4 completions, {WRONG} IndexError: list index out of range"
    ]


def test_a_task_that_fails_on_everything_gives_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "saved.json").write_text(json.dumps([{"completion": "", "answer": ""}]))
    assert main(["eval", "--rescore", str(file), f"task={FRAGILE}"]) == 2
    printed = capsys.readouterr().err
    assert "raises on every completion" in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_run_does_not_begin_with_such_a_task(tmp_path: Path) -> None:
    reward: Any = SimpleNamespace(check=lambda row: None)
    config = settings(tmp_path, task=FRAGILE, max_prompt_length=32)
    check_task(config, Ones(), reward, character_tokenizer())
    for task, message in ((Fragile(), "IndexError"), (Overlong(), "KeyError: 0")):
        with pytest.raises(ValueError, match=f"Fragile fails on an empty completion: {message}"):
            check_task(config, task, reward, character_tokenizer())
