"""If these fail, a run ends because of the terminal that shows it, or ends well although it did nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dmpo.trainer
from dmpo.cli import NO_STEP_TAKEN, main

QUICK = ["max_steps=1", "gradient_steps=1", "num_prompts=2", "num_generations=2", "eval_prompts=4", "eval_steps=0"]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_that_is_not_utf8(tmp_path: Path, encoding: str) -> None:
    command = [sys.executable, "-m", "dmpo", "train", "sudoku-tiny", f"output_dir={tmp_path / 'run'}", *QUICK]
    result = subprocess.run(
        command, env=environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0"), capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode(encoding)
    assert "Held-out accuracy, 4 test rows" in result.stdout.decode(encoding)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps_taken"] == 1


def test_a_reader_who_leaves_ends_no_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dmpo", "train", "sudoku-tiny", f"output_dir={tmp_path / 'run'}", *QUICK]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline().decode()
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert "sudoku-tiny on sudoku4" in first
    assert process.returncode == 0, errors
    assert "Broken" not in errors
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_run_without_a_step_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = dmpo.trainer.accumulate_gradient

    def poisoned(*arguments: Any) -> Any:
        result = real(*arguments)
        for parameter in arguments[1].parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(torch.nan)
        return result

    monkeypatch.setattr(dmpo.trainer, "accumulate_gradient", poisoned)
    assert main(["train", "sudoku-tiny", f"output_dir={tmp_path / 'run'}", *QUICK]) == NO_STEP_TAKEN == 3
    printed = " ".join(capsys.readouterr().out.split())
    assert "No step was taken: 1 of 1 steps were skipped" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps_taken"], summary["skipped_steps"]) == (0, 1)
