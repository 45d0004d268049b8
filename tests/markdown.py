"""Pages in Markdown held to what they say: their code runs, their configs load, and what they name exists."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shlex
from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import yaml

from dmpo.cli import entry
from dmpo.cli.generate import prompt_and_keys
from dmpo.config import DMPOConfig, GenerateConfig
from dmpo.config.files import build_config, launch_configs, load_config
from dmpo.config.kinds import kind_of_keys, kind_of_run
from dmpo.config.sft import SFTConfig

ROOT = Path(__file__).parent.parent
TOOLS = {"accelerate", "dmpo", "git", "hf", "make", "pip", "python", "source"}  # what a page may tell a reader to run
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block. line: that of its fence, from 1. file: what `# name.py` or `# name.yaml` at its top calls it."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        found = re.match(r"# ([\w-]+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None


def blocks(page: str, language: str) -> list[Block]:
    """The fenced blocks of a page in that language, in order."""
    found = (Block(m[1], m[2], page.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(page))
    return [block for block in found if block.language == language]


def run_block(block: Block, path: Path, names: dict[str, Any]) -> None:
    """Run a Python block; a traceback shows the line of the page."""
    exec(compile("\n" * block.line + block.text, str(path), "exec", dont_inherit=True), names)


def write_files(page: str, folder: Path) -> None:
    """The blocks that are files, as files, as a reader would save them."""
    for language in ("python", "yaml"):
        for block in blocks(page, language):
            if block.file:
                (folder / block.file).write_text(block.text)


def check_config(block: Block) -> None:
    """Raise ValueError unless a YAML block is a whole config of a run."""
    values = yaml.safe_load(block.text)
    build_config(kind_of_keys(values), values)


def commands(page: str) -> list[list[str]]:
    """The commands of all shell blocks, and those in backticks that are whole (`make …`, `python -m …`), in words.

    Comments and backslashes at line ends are no part of them.
    """
    lines = "\n".join(block.text for block in blocks(page, "bash")).replace("\\\n", " ").splitlines()
    lines += [span for span in spans(page) if re.match(r"make |python -m ", span)]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_command(words: list[str]) -> None:
    """Raise AssertionError, ValueError or SystemExit unless a command exists and takes what it is given.

    Nothing is run: `dmpo` parses its arguments and reads the config, `make` must have the target, a module of
    `python -m` must exist and, if it is ours, have the options in its text, `python -c` must compile, `pip` may name
    known extras only.
    """
    while "=" in words[0]:  # VARIABLE=value before the command
        words = words[1:]
    name, *rest = words
    name = Path(name).name
    assert name in TOOLS, f"{name}: not among {sorted(TOOLS)}"
    for config in re.findall(r"\$\(dmpo config-file ([\w]+)\)", " ".join(rest)):
        assert config in launch_configs(), config
    if name == "make":
        makefile = (ROOT / "Makefile").read_text()
        settings = dict(word.split("=", 1) for word in rest if "=" in word)
        for target in (word for word in rest if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no make target {target}"
            if target == "train":
                load_config(DMPOConfig, settings.get("CONFIG", "sudoku-tiny"), settings.get("ARGS", "").split())
    elif name == "dmpo":
        _parse(rest)
    elif name == "pip":
        for extra in re.findall(r"dmpo\[(\w+)\]", " ".join(rest)):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(), f"no extra {extra}"
    elif "-c" in rest and name == "python":
        compile(rest[rest.index("-c") + 1], "command", "exec")
    elif "-m" in rest and name in ("python", "accelerate"):
        module, *arguments = rest[rest.index("-m") + 1 :]
        if module == "dmpo":
            return _parse(arguments)
        path = ROOT / module.replace(".", "/")
        own = [file for file in (path / "__main__.py", path.with_suffix(".py")) if file.is_file()]
        assert own or ("." not in module and find_spec(module)), f"no module {module}"
        assert not own or "__main__" in own[0].name + own[0].read_text(), f"{module} does nothing as a command"
        for option in (word for word in arguments if own and word.startswith("--")):
            assert f'"{option}"' in own[0].read_text(), f"{module} has no option {option}"
        for file in (word for word in arguments if word.endswith(".py")):
            assert (ROOT / file).is_file(), f"no file {file}"
    return None


def _parse(arguments: list[str]) -> None:
    """`dmpo` with these arguments, its work left out."""

    def config(given: Any) -> None:
        load_config(kind_of_run(given.config, given.overrides), given.config, given.overrides)

    def sft(given: Any) -> None:
        load_config(SFTConfig, given.config, given.overrides)

    def generate(given: Any) -> None:
        load_config(GenerateConfig, None, prompt_and_keys(given)[1])

    def keys_of_run(source: str | None, words: list[str]) -> list[str]:
        """As if every folder below runs/ were a run of Sudoku."""
        of_run = any(word.startswith('model="runs/') for word in words)
        return [] if not of_run or any(word.startswith(("task=", "tasks=")) for word in words) else ["task=sudoku4"]

    work: dict[str, Any] = dict.fromkeys(entry.COMMANDS, lambda given: None)
    work |= {"train": config, "sft": sft, "plan": config, "generate": generate, "config": entry.COMMANDS["config"].run}
    work |= {"eval": entry.COMMANDS["eval"].run}
    replaced = {name: dataclasses.replace(command, run=work[name]) for name, command in entry.COMMANDS.items()}
    with (
        mock.patch.dict(entry.COMMANDS, replaced),
        mock.patch("dmpo.evaluation.run_keys.keys_of_run", keys_of_run),
        mock.patch("dmpo.run.early_checks.check_model_path"),
        mock.patch("dmpo.evaluation.runner.evaluate_checkpoint"),
        mock.patch("dmpo.evaluation.rescore.rescore"),
        mock.patch.dict(os.environ, {"DMPO_TRACEBACK": "1"}),
    ):
        if "--help" in arguments:
            with pytest.raises(SystemExit, match=r"^0$"):
                entry.main(arguments)
            return
        assert entry.main(arguments) == 0, arguments


def links(page: str) -> list[str]:
    """Targets of links and pictures that lie in the repository, without anchors."""
    targets = re.findall(r"\]\(\s*([^)\s]+)", _BLOCK.sub("", page))
    return [target.partition("#")[0] for target in targets if not re.match(r"\w+:|#", target)]


def spans(page: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _BLOCK.sub("", page))


def words_of_blocks(page: str) -> set[str]:
    """Words that a page's own code and configs bring in."""
    return set(re.findall(r"\w+", "\n".join(b.text for kind in ("python", "yaml") for b in blocks(page, kind))))


def unknown(span: str, own: Collection[str] = ()) -> list[str]:
    """Files, objects and words of a span in backticks that the repository does not have; `own` are words to allow.

    A path is looked for from the root, in the package and, if it is a bare file name, anywhere. `module.name` is
    imported where `module` is one of `dmpo` or of `dmpo.kernels`. Any other word of four letters or more must stand in
    the code.
    """
    missing = []
    for word in re.findall(r"[\w./*<>-]*[\w/>*]", span):
        path = word.rstrip("/")
        if re.search(r"\.(py|md|json|yaml|png|ipynb|cu|cpp|h)$", word) or word.endswith("/"):
            pattern = re.sub(r"\b(DEVICE|PART)\b", "*", path)  # what a reader puts in
            known = any(True for base in (ROOT, ROOT / "dmpo") for _ in base.glob(pattern))
            made = word.startswith("build/") or Path(path).name in (
                written_folders() if word.endswith("/") else written_files()
            )
            if not known and not made and path not in {file.name for file in code_files()}:
                missing.append(word)
        elif re.fullmatch(r"[a-z_]\w*(\.\w+)+", word):
            missing += [] if _resolves(word) else [word]
        else:
            parts = re.findall(r"[A-Za-z_]\w{3,}", word)
            missing += [part for part in parts if part not in code_words() and part not in own]
    return missing


def _resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an object of one; where its first word is no module, whether the code has
    its words."""
    homes = [home for home in ("", "dmpo.", "dmpo.kernels.") if find_spec(f"{home}{dotted.partition('.')[0]}")]
    for home in homes:
        parts = f"{home}{dotted}".split(".")
        cut = max(n for n in range(1, len(parts) + 1) if _is_module(parts[:n]))
        found: Any = importlib.import_module(".".join(parts[:cut])) if parts[cut:] else None
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if found is not None or not parts[cut:]:
            return True
    return not homes and all(part in code_words() for part in dotted.split("."))


def _is_module(parts: list[str]) -> bool:
    try:
        return find_spec(".".join(parts)) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False
    except ValueError:  # torch.ops makes itself a module
        return True


@cache
def written_files() -> set[str]:
    """Names of files that are no code, as the code spells them: what a command writes need not be there."""
    name = re.compile(r"[\w-]+\.(?:json|jsonl|md|png|log|yaml)\b")
    return {found for path in code_files() for found in name.findall(_text(path))}


@cache
def written_folders() -> set[str]:
    """Words in quotes in the code: a folder that a command makes need not be there."""
    return {name for path in code_files() for name in re.findall(r'"([a-z][\w-]+)"', _text(path))}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.suffix == ".py" else ""


@cache
def code_files() -> list[Path]:
    """Every file of the code, its tests and its pages."""
    top = ("dmpo", "kernels", "csrc", "benchmarks", "tests", "docs")
    return [path for name in top for path in (ROOT / name).rglob("*") if path.is_file()] + [ROOT / "Makefile"]


@cache
def code_words() -> frozenset[str]:
    """Every word of the code, the tests of the pages apart."""
    own = [path for path in code_files() if path.suffix in (".py", ".h", ".cu", ".cpp", ".yaml", "")]
    texts = [p.read_text() for p in own if p.name not in ("test_docs.py", "test_readme.py", "markdown.py")]
    return frozenset(re.findall(r"\w+", "\n".join(texts)))
