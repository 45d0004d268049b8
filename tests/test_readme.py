"""If these fail, the README shows code that does not run or numbers that no command gave."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.first_light import RESULTS, markdown
from dmpo.config import DMPOConfig
from dmpo.config_files import build_config, load_config, shipped_configs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_blocks_are_configs(text: str) -> None:
    build_config(DMPOConfig, yaml.safe_load(text))


def test_commands_name_what_exists() -> None:
    commands = "\n".join(blocks("bash"))
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", commands, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"dmpo train ([\w-]+)", commands):
        assert name in shipped_configs()
    for arguments in re.findall(r'ARGS="([^"]*)"', commands):
        load_config(DMPOConfig, "sudoku-tiny", arguments.split())


def test_the_table_is_the_measured_one() -> None:
    results = json.loads((RESULTS / "first_light.json").read_text())
    assert markdown(results) in TEXT
    assert f"benchmarks/results/{RESULTS.name}/training.png" in TEXT
    assert (RESULTS / "training.png").is_file()


def test_the_map_names_files_that_exist() -> None:
    for row in re.findall(r"^\| (`.*?) \|", TEXT.partition("## The map")[2], re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row)
        folder = first.rstrip("/").rpartition("/")[0]  # the others of a row are its neighbours
        for path in [first, *(f"{folder}/{name}" for name in others if not name.startswith("dmpo."))]:
            assert list(ROOT.glob(path)), path
