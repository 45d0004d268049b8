"""`dmpo pretrain`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and keys."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="[MODEL] key=value",
        help="an embedded model whose recipe it is, or else that of sudoku-tiny; output_dir=FOLDER is required",
    )


def run(arguments: argparse.Namespace) -> None:
    """Make an embedded model from scratch."""
    from ..config.files import load_config
    from ..config.pretrain import PretrainConfig
    from ..models.files import recipe_overrides

    given = arguments.overrides
    recipe = recipe_overrides(given.pop(0)) if given and "=" not in given[0] else []
    config = load_config(PretrainConfig, None, [*recipe, *given])
    folder = Path(config.output_dir)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output_dir {folder} is not empty: give another folder")

    from rich.progress import Progress

    from ..models import save_model
    from ..pretrain import as_dict, character_tokenizer, pretrain
    from ..storage.terminal import make_console

    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Progress(console=make_console()) as progress:
        task = progress.add_task("pretraining", total=config.correct_steps + config.sloppy_steps)
        model = pretrain(config, lambda step, loss: progress.update(task, completed=step))
    save_model(model, folder, layout="llada")
    character_tokenizer(config.task).save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(as_dict(config), indent=2) + "\n")
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {time.perf_counter() - start:.0f} s")


def keys() -> Mapping[str, type]:
    """The config class of a recipe."""
    from ..config.pretrain import PretrainConfig

    return {"Keys of a recipe, as key=value or --key value:": PretrainConfig}


COMMAND = Command(
    name="pretrain",
    text="Make an embedded tiny model from scratch.",
    example="dmpo pretrain sudoku-tiny output_dir=runs/base",
    add_arguments=add_arguments,
    run=run,
    keys=keys,
)
