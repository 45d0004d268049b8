"""If these fail, a page of docs/ shows code that does not run, or names what does not exist."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.markdown import (
    ROOT,
    Block,
    blocks,
    check_command,
    check_config,
    commands,
    links,
    run_block,
    spans,
    unknown,
    words_of_blocks,
    write_files,
)

PAGES = sorted((ROOT / "docs").glob("*.md"))
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, from which modules are imported.

    Runs draw no plot: that takes longer than all else they do here.
    """
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *_: None)
    monkeypatch.setattr("dmpo.sft.plot_sft_run", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def read(path: Path, folder: Path) -> None:
    """Do what a page says, from top to bottom."""
    page, names = path.read_text(), {"__name__": f"docs_{path.stem}"}
    write_files(page, folder)
    for block in blocks(page, "python"):
        run_block(block, path, names)


@every_page
def test_python_blocks_run_in_order(path: Path, reader: Path) -> None:
    read(path, reader)


def test_the_page_of_the_kernels_holds_for_triton_too(interpreter: None, reader: Path) -> None:
    read(ROOT / "docs" / "kernels.md", reader)


@every_page
def test_yaml_blocks_are_configs(path: Path, reader: Path) -> None:
    for block in blocks(path.read_text(), "yaml"):
        check_config(block)


@every_page
def test_commands_exist_and_take_their_arguments(path: Path, reader: Path) -> None:
    write_files(path.read_text(), reader)
    for words in commands(path.read_text()):
        check_command(words)


@every_page
def test_what_is_named_exists(path: Path) -> None:
    page = path.read_text()
    own = words_of_blocks(page)
    assert {span: missing for span in spans(page) if (missing := unknown(span, own))} == {}
    assert [target for target in links(page) if not (path.parent / target).exists()] == []


@pytest.mark.parametrize(
    "command",
    [
        "make coffee",
        "make train ARGS=sede=1",
        "dmpo trane sudoku-tiny",
        "dmpo train sudoku-tiny sede=1",
        "dmpo eval sudoku-tiny tasks=sudoku4 output_dir=out limits=3",
        "dmpo merge runs/one",
        "accelerate launch --config_file $(dmpo config-file fsdp9) -m dmpo train sudoku-tiny",
        "python -m benchmarks.bench_cofee",
        "python -m benchmarks.counted.meter",
        "python -m benchmarks.readme --wrote",
        "python -m pytest tests/kernels/test_cofee.py",
        "python -c 'print('",
        "pip install 'dmpo[coffee]'",
        "cofee",
    ],
)
def test_a_wrong_command_is_found(command: str, reader: Path) -> None:
    with pytest.raises((AssertionError, ValueError, SyntaxError, SystemExit)):
        check_command(shlex.split(command))


def test_a_wrong_name_is_found() -> None:
    wrong = (
        "kernels/cofee.py",
        "coffee.py",
        "weights.importance_wates",
        "frozen_head.vocabulary_pas",
        "objectiv=wdce",
        "cofe/",
    )
    assert [name for name in wrong if not unknown(name)] == []
    right = (
        "kernels/remask/api.py",
        "remask.py",
        "weights.importance_weights",
        "linear_ce.frozen_head.vocabulary_pass",
        "loss=wdce",
        "csrc/",
    )
    assert [name for name in right if unknown(name)] == []
    assert unknown("cofee", {"cofee"}) == []


def test_a_traceback_shows_the_line_of_the_page() -> None:
    page = "text\n\n```python\nx = 1\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as raised:
        run_block(blocks(page, "python")[0], Path("page.md"), {})
    assert raised.traceback[-1].lineno == 4  # from 0
    assert blocks(page, "python")[0].file is None
    with pytest.raises(ValueError, match="sede"):
        check_config(Block("yaml", "model: a\ntask: b\noutput_dir: c\nsede: 1\n", 1))
