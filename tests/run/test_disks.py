"""If these fail, a full disk costs a checkpoint that was whole, or lines of the log."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmpo.run import checkpoint, model_copy, saving
from dmpo.storage.json_lines import JsonLines
from dmpo.storage.whole_files import write_text
from tests.run.killed_run import small_trainer
from tests.small_runs import lines, names

REASON = "No space left on device (os error 28)"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond that many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["adapter_model", "optimizer", "rank-0", "trainer", "manifest"])
def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second of three saves is refused, at each file in turn."""
    real = os.fsync if what == "manifest" else None
    kept: list[list[str]] = []

    def refuse(path: Any) -> None:
        path = Path(path)
        if what in path.name and "step-2" in str(path):
            kept.append(names(tmp_path / "checkpoints"))
            raise OSError(errno.ENOSPC, "No space left on device") if real else RuntimeError(REASON)

    def patched(name: str, module: Any, place: int) -> None:
        function = getattr(module, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            refuse(arguments[place])
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, wrapper)

    patched("save_file", checkpoint, 1)
    patched("save_file", model_copy, 1)
    patched("write_text", Path, 0)
    run = small_trainer(tmp_path, max_steps=3, save_steps=1, save_total_limit=1)
    run.train()
    assert kept == [[".partial-step-2", "step-1"]]
    assert "step-2 could not be written" in caplog.text
    assert names(tmp_path / "checkpoints") == ["step-3"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_the_last_step_must_be_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = small_trainer(tmp_path, max_steps=1)
    with largest_file(4000), pytest.raises(OSError, match="step 1 cannot be saved"):
        run.train()
    assert "File too large" in caplog.text
    assert names(tmp_path / "checkpoints") == []


def test_the_last_step_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10, 10**12])
    monkeypatch.setattr(saving, "PATIENCE", 60.0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": next(free)}))
    small_trainer(tmp_path, max_steps=1).train()
    assert names(tmp_path / "checkpoints") == ["step-1"]


def test_a_foreign_error_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        small_trainer(tmp_path, max_steps=1).train()


def test_lines_wait_for_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    with largest_file(20):
        file.append({"step": 2})
        assert file.path.read_text() == '{"step": 1}\n'
        assert "the lines will be written with the next ones" in caplog.text
        with pytest.raises(OSError, match="File too large"):
            file.sync()
    file.append({"step": 3})
    assert [line["step"] for line in file.read()] == [1, 2, 3]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "config.yaml", "old")
    with largest_file(4), pytest.raises(OSError):
        write_text(tmp_path / "config.yaml", "longer than that")
    assert (tmp_path / "config.yaml").read_text() == "old"
