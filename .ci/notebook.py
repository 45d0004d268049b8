"""Executes examples/quickstart.ipynb and writes it with its new outputs, and without what differs between machines.

    python .ci/notebook.py             # execute, and write it with the outputs
    python .ci/notebook.py --check     # execute alone; exit status 1 if a cell fails or prints what it should not

The outputs of nbclient have no times and no names of machines. What a cell prints is checked for warnings and paths.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
SECONDS = 600  # of one cell, on a busy machine
_LOCAL = re.compile(r"(?:^|[\s'\"(=])(/(?:home|root|tmp|work|usr|Users|var|opt)/\S*)")


def execute(path: Path = NOTEBOOK) -> Any:
    """The notebook with the outputs of a run in a folder of its own. Raises nbclient's error if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")  # no open ports
        client = NotebookClient(notebook, km=manager, timeout=SECONDS, startup_timeout=SECONDS, record_timing=False)
        client.execute(cwd=folder, cleanup_kc=True)  # ends the kernel, which its manager alone would leave
    return clean(notebook)


def clean(notebook: Any) -> Any:
    """The same notebook with the metadata that every machine would write."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    return notebook


def faults(notebook: Any) -> list[str]:
    """What a reader should not find in the outputs: errors, warnings, and paths of the machine that executed it."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"{cell.id}: {output.get('text') or output.get('evalue')}")
            texts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
            found += [f"{cell.id}: the path {path}" for text in texts for path in _LOCAL.findall(text)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    notebook = execute()
    for fault in (found := faults(notebook)):
        print(fault, file=sys.stderr)
    if not found and not arguments.check:
        nbformat.write(notebook, NOTEBOOK)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
