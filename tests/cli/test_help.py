"""If these fail, a person who asks what a command takes is not told, or waits for torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dmpo import __version__
from dmpo.cli import main
from dmpo.cli.entry import COMMANDS
from dmpo.config import DMPOConfig, GenerateConfig
from dmpo.config.files import load_config
from dmpo.config.meanings import keys_of
from dmpo.config.pretrain import PretrainConfig
from dmpo.evaluation.keys import EvalConfig
from dmpo.evaluation.rescore import RescoreConfig


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("train", [DMPOConfig]),
        ("plan", [DMPOConfig]),
        ("config", [DMPOConfig]),
        ("eval", [EvalConfig, RescoreConfig]),
        ("generate", [GenerateConfig]),
        ("pretrain", [PretrainConfig]),
    ],
)
@pytest.mark.parametrize("columns", [30, 80, 200])
def test_help_lists_every_key(
    command: str, kinds: list[type], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_of(command, capsys)
    plain = " ".join(text.split())
    for kind in kinds:
        for key in keys_of(kind):
            assert re.search(rf"^  {key.name}( |$)", text, re.MULTILINE), key.name
            assert " ".join(key.summary.split()) in plain, key.name
            assert not key.group or f"\n{key.group}:\n" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert text.startswith(f"usage: dmpo {command}")
    assert "example: " in text


def test_dmpo_alone_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    for command in COMMANDS.values():
        assert f"\n  {command.name} " in alone
        assert command.example in alone
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dmpo {__version__}\n"


def test_a_wrong_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "dmpo: no command 'trian', did you mean train?\n"
    assert main(["zzz"]) == 2
    assert "choose one of train, sft, config" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "dmpo train: the following arguments are required: CONFIG; see dmpo train --help\n"
    )


def test_config_prints_yaml_that_train_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "sudoku-tiny", "--max-steps", "4", "report_to=tensorboard"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    expected = load_config(DMPOConfig, "sudoku-tiny", ["max_steps=4", "report_to=[tensorboard]"])
    assert load_config(DMPOConfig, str(path)) == expected
    assert main(["config", str(path)]) == 0, "of a YAML path, too"
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(path.read_text())
    assert main(["config"]) == 0
    path.write_text(capsys.readouterr().out)
    assert set(yaml.safe_load(path.read_text())) == {key.name for key in keys_of(DMPOConfig)}
    assert main(["train", str(path)]) == 2
    assert "config key 'model' is required" in capsys.readouterr().err
    assert main(["config", "max_steps=4"]) == 0
    assert "\nmax_steps: 4\n" in capsys.readouterr().out
    for arguments in (["config", "max_stps=4"], ["config", "sudoku-tiny", "max_stps=4"], ["config", "--max_stps=4"]):
        assert main(arguments) == 2
        assert "max_steps" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    program = """
import sys
from dmpo.cli import main
for words in (["train", "--help"], ["eval", "--help"], ["generate", "--help"], ["pretrain", "--help"]):
    try:
        main(words)
    except SystemExit:
        pass
main([]); main(["--version"]); main(["config", "sudoku-tiny"]); main(["config"])
slow = [name for name in ("torch", "transformers", "datasets", "numpy") if name in sys.modules]
print(*slow, file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.split() == []
