"""If this fails, `python -m benchmarks` without its extra ends in a traceback in place of a command that mends it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks_main


def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.measured.remask", None)  # importing it is a ModuleNotFoundError
    assert benchmarks_main.main(["--quick", "--only", "remask", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "is not installed: pip install 'dmpo[dev]'" in printed
    assert "Traceback" not in printed
