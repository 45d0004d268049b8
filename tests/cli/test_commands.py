"""If these fail, the command line crashes where it should explain, or explains what is not so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmpo.cli import main
from dmpo.config.decoding import DECODERS
from dmpo.kernels.remask import extension_status
from dmpo.run.versions import installed_versions, recorded_sets, whether_tested

QUICK = ["max_steps=2", "num_prompts=2", "num_generations=2", "eval_prompts=8", "eval_steps=0"]


def assert_plain_lines(lines: list[str], folder: Path) -> None:
    """A banner, and a line for each step with the values of metrics.jsonl."""
    titles = [line.split()[0] for line in lines[1:7]]
    assert titles == ["model", "task", "ranks", "kernels", "steps", "memory"]
    assert not any("not known" in line for line in lines[1:7])
    assert "658,560 parameters trained" in lines[1]
    assert "the run draws 2 prompts" in lines[2]
    assert "2 gradient steps in 1 rounds of 2; a round has 2 prompts × 2 completions, all rounds 4" in lines[5]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line.startswith("step ") and "loss" in line]
    assert len(steps) == len(metrics) == 2
    for line, values in zip(steps, metrics, strict=True):
        assert line.startswith(f"step {values['step']}/2  loss {values['loss']:.4g}  reward {values['reward']:.3f}  ")
        assert f"learning rate {values['learning_rate']:.3g}  gradient norm {values['grad_norm']:.3g}" in line
        assert re.search(rf"  ESS {values['ess']:.2f}  \d+\.\d s  left 0:\d\d:\d\d$", line)


def test_train_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", "sudoku-tiny", f"output_dir={folder}", *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "Held-out accuracy, 8 test rows" in printed
    assert "95 % intervals" in printed
    assert "\x1b" not in printed, "no escape codes outside a terminal"
    assert_plain_lines(printed.splitlines(), folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 <= summary["sampled_accuracy_before"] <= 1
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(["train", "sudoku-tiny", f"output_dir={folder}", *QUICK]) == 2, "a second run must not overwrite"
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(["train", "sudoku-tiny", f"output_dir={folder}", *QUICK, "resume=true", "max_steps=3"]) == 0
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sudoku-tiny", "learning_rat=1"], "did you mean 'learning_rate'"),
        (["train", "sudoku-tinny"], "did you mean 'sudoku-tiny'"),
        (["train", "sudoku-tiny", "model=no/such/folder", "output_dir=absent"], "no/such/folder"),
        (["train", "sudoku-tiny", "reward=nothing", "output_dir=absent"], "module:name"),
        (["generate", "sudoku-tiny", "1234", "gen_length=1"], "give steps"),
        (["generate", "no/such/folder", "1234", "threshold=0.5"], "threshold must be left at None, got 0.5"),
        (
            ["generate", "no/such/folder", "1234", "decoder=wino", "wino_threshold=7"],
            "wino_threshold must be in [0, 1]",
        ),
        (["train", "sudoku-tiny", "decoder=parallel", "factor=-1", "output_dir=absent"], "factor must be finite"),
        (["pretrain"], "output_dir"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1


@pytest.mark.parametrize("decoder", DECODERS)
def test_generate_solves_a_puzzle(decoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "sudoku-tiny", "123434122143432.", "gen_length=16", "block_length=16", "steps=16"]
    assert main([*arguments, f"decoder={decoder}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "1234341221434321"
    forwards = int(printed.err.split(" forwards")[0])
    assert forwards <= 16
    assert f"{forwards} row-forwards, {16 / forwards:.2f} tokens a row-forward" in printed.err


def test_generate_takes_the_decoder_options(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "sudoku-tiny", "123434122143432.", "gen_length=16", "block_length=16", "steps=16"]
    assert main([*arguments, "decoder=parallel", "threshold=0"]) == 0
    assert capsys.readouterr().err.startswith("1 forwards")


def test_info_tells_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert ("C++ extension" in printed) == extension_status()[0]
    assert extension_status()[1] in printed
    assert whether_tested(installed_versions(), recorded_sets()) in printed


def test_a_reward_in_the_current_folder(tmp_path: Path) -> None:
    """Through the installed command, whose path starts with its own folder and not with the current one."""
    (tmp_path / "mine.py").write_text("def none(completions, **columns):\n    return None\n")
    own = str(Path(sys.executable).parent / "dmpo")
    command = [own, "train", "sudoku-tiny", "reward=mine:none", "output_dir=run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "reward none must return a list of numbers, got NoneType" in result.stderr


def test_module_and_light_import() -> None:
    """The losses cost torch alone; `python -m dmpo` is the command."""
    code = "import sys, dmpo; dmpo.WDCELoss(); print('transformers' in sys.modules, 'accelerate' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
    result = subprocess.run([sys.executable, "-m", "dmpo", "train", "x"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no config 'x'" in result.stderr
