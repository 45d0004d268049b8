"""The recipe of an embedded tiny model: typed keys. No torch here."""

from __future__ import annotations

import json
from dataclasses import field
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from .checkpoint_files import checkpoint_folder, embedded_models, read_json
from .config_errors import checked_config
from .teachers import TEACHERS


@checked_config
@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class PretrainConfig:
    """A recipe; the defaults are that of `sudoku-tiny`.

    task, task_options: as in training; one with a teacher (`dmpo.teachers`).
    hidden_size, num_layers, num_heads, mlp_hidden_size: of the model.
    correct_steps, sloppy_steps: gradient steps on right and on sloppy demonstrations, `batch_size` rows each.
    sloppy_share: share of sloppy demonstrations with mistakes, `mistakes` each.
    learning_rate: peak of stage one (warm-up, then cosine to a tenth); stage two runs at `sloppy_learning_rate`.
    """

    output_dir: str
    task: str = "sudoku4"
    task_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_hidden_size: int = 256
    batch_size: int = 128
    correct_steps: int = 2000
    learning_rate: float = 2e-3
    sloppy_steps: int = 250
    sloppy_learning_rate: float = 3e-4
    sloppy_share: float = 0.8
    mistakes: int = 2
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.task not in TEACHERS:
            raise ValueError(f"task must be one with a teacher, {' or '.join(TEACHERS)}, got {self.task!r}")


def recipe_overrides(name: str) -> list[str]:
    """The recipe of an embedded model, all but its folder, as `key=value`.

    Raises:
        ValueError: no embedded model of that name.
    """
    if name not in embedded_models():
        raise ValueError(f"no embedded model {name!r}, choose one of {', '.join(embedded_models())}")
    recipe = read_json(checkpoint_folder(name) / "recipe.json")
    return [f"{key}={json.dumps(value)}" for key, value in recipe.items() if key != "output_dir"]
