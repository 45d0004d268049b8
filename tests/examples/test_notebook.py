"""If these fail, the notebook does not run, or shows a reader what his own machine would not."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.markdown import ROOT


@pytest.fixture(scope="module")
def helper() -> Any:
    """.ci/notebook.py, which executes the notebook and cleans it."""
    spec = spec_from_file_location("notebook", ROOT / ".ci" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(notebook: Any) -> list[list[str]]:
    """What each cell shows: printed text, or the types of a picture."""
    return [
        [output.get("name") or ", ".join(sorted(output.data)) for output in cell.get("outputs", [])]
        for cell in notebook.cells
    ]


def living_kernels() -> list[str]:
    """Jupyter kernels that this process has started (Linux)."""
    children = [
        child for of_thread in Path("/proc/self/task").glob("*/children") for child in of_thread.read_text().split()
    ]
    commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    return [command for command in commands if "ipykernel_launcher" in command]


def test_it_runs_and_shows_what_was_committed(helper: Any) -> None:
    committed, executed = nbformat.read(helper.NOTEBOOK, as_version=4), helper.execute()
    assert living_kernels() == []
    assert helper.faults(executed) == helper.faults(committed) == []
    assert kinds(executed) == kinds(committed)
    assert [cell.get("execution_count") for cell in committed.cells] == [
        cell.get("execution_count") for cell in executed.cells
    ], "committed as one run from top to bottom"
    assert nbformat.writes(helper.clean(committed)) == helper.NOTEBOOK.read_text().rstrip("\n")
    before, after, *_ = map(float, re.findall(r"([\d.]+)%", executed.cells[4].outputs[0].text))
    assert after > before + 20, "per cent of the puzzles, sampled"


HOME = "/".join(["", "home", "me"])  # in parts: no file of the repository may hold such a path


def test_what_must_not_be_committed_is_seen(helper: Any) -> None:
    outputs = [
        {"output_type": "stream", "name": "stderr", "text": "UserWarning: old"},
        {"output_type": "stream", "name": "stdout", "text": "see /tmp/run-1/view.html"},
        {"output_type": "error", "ename": "E", "evalue": "no", "traceback": []},
        {"output_type": "display_data", "data": {"text/plain": f"PosixPath('{HOME}/run')"}, "metadata": {}},
        {"output_type": "stream", "name": "stdout", "text": "1/2 of 3 / 4"},
    ]
    cells = [nbformat.v4.new_code_cell("", outputs=[nbformat.from_dict(output)]) for output in outputs]
    notebook = helper.clean(nbformat.v4.new_notebook(cells=cells))
    assert helper.faults(notebook) == [
        "cell-0: UserWarning: old",
        "cell-1: the path /tmp/run-1/view.html",
        "cell-2: no",
        f"cell-3: the path {HOME}/run')",
    ]
