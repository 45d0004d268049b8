"""If these fail, an option of the command line is not understood, or another key is set than the one named."""

from __future__ import annotations

import pytest

from dmpo.cli.entry import COMMANDS
from dmpo.cli.options import arranged
from dmpo.cli.parser import CommandParser
from dmpo.config import DMPOConfig
from dmpo.config.meanings import keys_of
from dmpo.evaluation.keys import EvalConfig

OWN = {"--gpus": True, "--show": False, "-h": False}


def words(*given: str) -> list[str]:
    return arranged(list(given), OWN, keys_of(DMPOConfig), ["older_name"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["c", "--max_steps", "4"], ["--", "c", "max_steps=4"]),
        (["c", "--max-steps", "4"], ["--", "c", "max_steps=4"]),
        (["c", "--max-steps=4"], ["--", "c", "max_steps=4"]),
        (["--max_steps=4", "c", "seed=1"], ["--", "c", "seed=1", "max_steps=4"]),
        (["c", "--resume"], ["--", "c", "resume=true"]),
        (["--resume", "c"], ["--", "c", "resume=true"]),
        (["c", "--resume", "false"], ["--", "c", "resume=false"]),
        (["c", "--resume=False", "--antithetic"], ["--", "c", "resume=False", "antithetic=true"]),
        (["c", "--factor", "-1"], ["--", "c", "factor=-1"]),
        (["c", "--learning_rate", "-1e-4"], ["--", "c", "learning_rate=-1e-4"]),
        (["c", "--task-options.min_holes", "2"], ["--", "c", "task_options.min_holes=2"]),
        (["c", "--task_options.two-words=a=b"], ["--", "c", "task_options.two-words=a=b"]),
        (["c", "--older-name", "4"], ["--", "c", "older_name=4"]),
        (["c", "--report_to", "[a, b]"], ["--", "c", "report_to=[a, b]"]),
        (["--gpus", "8", "c", "--show", "d"], ["--gpus", "8", "--show", "--", "c", "d"]),
        (["c", "--gpus=8"], ["--gpus=8", "--", "c"]),
        (["c", "-3 + 4", "-5"], ["--", "c", "-3 + 4", "-5"]),
        (["c", "--", "--max_steps", "-h"], ["--", "c", "--max_steps", "-h"]),
        ([], []),
        (["--show"], ["--show"]),
    ],
)
def test_words_are_arranged(given: list[str], expected: list[str]) -> None:
    assert words(*given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--max_step", "4"], "unknown option --max_step, did you mean --max_steps, or max_steps=VALUE?"),
        (["--max-step=4"], "did you mean --max_steps"),
        (["--gpu", "4"], "unknown option --gpu, did you mean --gpus?"),
        (["--zzzzzz"], "unknown option --zzzzzz; --help lists"),
        (["-x"], "unknown option -x"),
        (["-max_steps", "4"], "unknown option -max_steps, did you mean --max_steps"),
        (["--max_steps"], "--max_steps needs a value"),
        (["--max_steps", "--resume"], "--max_steps needs a value"),
        (["--gpus"], "--gpus needs a value"),
    ],
)
def test_mistakes_name_the_option(given: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        words(*given)
    assert message in str(error.value)


def test_every_key_is_an_option_of_its_command() -> None:
    for name, kind in (("train", DMPOConfig), ("plan", DMPOConfig), ("eval", EvalConfig)):
        parser = CommandParser(COMMANDS[name])
        for key in keys_of(kind):
            read = parser.read(["c", f"--{key.name.replace('_', '-')}", "true"])
            assert read.overrides[-1] == f"{key.name}=true"


def test_own_options_stay() -> None:
    read = CommandParser(COMMANDS["plan"]).read(["sudoku-tiny", "--gpus", "8", "--seed", "1", "--memory=40", "x=2"])
    assert (read.config, read.gpus, read.memory, read.overrides) == ("sudoku-tiny", 8, 40.0, ["x=2", "seed=1"])
    read = CommandParser(COMMANDS["eval"]).read(["--rescore", "f.json", "--task", "gsm8k", "--adapter", "folder"])
    assert (read.rescore, read.overrides) == ("f.json", ["task=gsm8k", "adapter=folder"])
