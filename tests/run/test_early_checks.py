"""If these fail, a mistake in a command is reported only after torch is imported, which takes many seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dmpo.config import DMPOConfig
from dmpo.run.early_checks import check_run
from tests.small_runs import settings

# Runs a command in a fresh interpreter; prints its exit status and which slow packages it has imported.
PROGRAM = """
import sys
from dmpo.cli import main
status = main(sys.argv[1:])
print(status, *(name for name in ("torch", "transformers", "datasets", "huggingface_hub") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nope"], "no config 'nope'"),
        (["train", "nope.yaml"], "nope.yaml cannot be read"),
        (["train", "sudoku-tiny", "lr=1"], "did you mean 'lora_r' or 'learning_rate'?"),
        (["train", "sudoku-tiny", "alpha=x"], "'alpha'"),
        (["train", "sudoku-tiny", "steps=7", "gen_length=32"], "steps must be a positive multiple"),
        (["train", "sudoku-tiny", "model=no/such/folder"], "no/such/folder"),
        (["train", "sudoku-tiny", "task=chess"], "unknown task 'chess'"),
        (["train", "sudoku-tiny", "reward=no_such_module:judge"], "no module 'no_such_module'"),
        (["train", "sudoku-tiny", "reward=judge"], "module:name"),
        (["train", "sudoku-tiny", "rewards=[json:tool, {function: no_such_module:f}]"], "no module 'no_such_module'"),
        (["train", "sudoku-tiny", "rewards=[json:tool, os:tool]"], "rewards has 2 rewards named 'tool'"),
        (["train", "sudoku-tiny", "loss=no_such_module:LOSS"], "no module 'no_such_module'"),
        (["train", "sudoku-tiny", "decoder=no_such_module:Policy"], "no module 'no_such_module'"),
        (["plan", "sudoku-tiny", "model=no/such/folder"], "no/such/folder"),
        (["eval", "no/such/folder", "tasks=gsm8k", "output_dir=absent"], "no/such/folder"),
        (["eval", "sudoku-tiny", "tasks=sudoku4", "output_dir=absent", "limt=3"], "did you mean 'limit'?"),
        (["eval", "--rescore", "no-such-file.json", "task=gsm8k"], "no-such-file.json"),
        (["generate", "no/such/folder", "1234"], "no/such/folder"),
        (["generate", "sudoku-tiny", "1234", "decoder=magic"], "decoder"),
        (["generate", "sudoku-tiny", "1234", "decoder=no_such_module:Policy"], "no module 'no_such_module'"),
        (["merge", "no/such/folder", "--output", "absent"], "no/such/folder"),
        (["pretrain", "no-such-model", "output_dir=absent"], "no-such-model"),
        (["config-file", "fsdp"], "choose one of ddp"),
    ],
)
def test_a_mistake_is_reported_before_torch_is_imported(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["2"], result.stdout
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a mistake writes nothing"


def test_a_used_folder_and_a_moved_run(tmp_path: Path) -> None:
    used = tmp_path / "used"
    (used / "checkpoints").mkdir(parents=True)
    (used / "config.yaml").write_text("model: tiny\n")
    config = settings(used, model="sudoku-tiny")
    with pytest.raises(ValueError, match="is not empty: pass resume=true"):
        check_run(config, "sudoku-tiny")
    moved = settings(tmp_path / "before", model="sudoku-tiny", resume=True)
    with pytest.raises(ValueError, match=f"add output_dir={used}"):
        check_run(moved, str(used / "config.yaml"))


def test_what_is_right_passes(tmp_path: Path) -> None:
    for changes in (
        {},
        {"model": "owner/name"},
        {"task": "json:tool"},
        {"reward": "json:loads"},
        {"loss": "json:loads"},
    ):
        config: DMPOConfig = settings(tmp_path / "absent", **({"model": "sudoku-tiny"} | changes))
        check_run(config, "sudoku-tiny")
