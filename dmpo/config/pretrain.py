"""The recipe of an embedded tiny model: typed keys. No torch here."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from .errors import checked_config


@checked_config
@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class PretrainConfig:
    """A recipe. Its defaults are the recipe of `sudoku-tiny`."""

    output_dir: str
    """where the checkpoint goes"""
    task: Literal["sudoku4", "countdown"] = "sudoku4"
    """one that has a teacher, see `dmpo.tasks.teachers.TEACHERS`"""
    task_options: dict[str, Any] = field(default_factory=dict)
    """as in training"""
    seed: int = 0
    """of everything that is random"""
    hidden_size: int = 128
    """of the model"""
    num_layers: int = 4
    """of the model"""
    num_heads: int = 4
    """of the model"""
    mlp_hidden_size: int = 256
    """of the model"""
    batch_size: int = 128
    """demonstrations of a gradient step"""
    correct_steps: int = 2000
    """gradient steps of stage one, on right demonstrations"""
    learning_rate: float = 2e-3
    """peak of stage one: a warm-up, then a cosine to a tenth of it"""
    sloppy_steps: int = 250
    """gradient steps of stage two, on sloppy demonstrations"""
    sloppy_learning_rate: float = 3e-4
    """of stage two"""
    sloppy_share: float = 0.8
    """share of the sloppy demonstrations that have mistakes"""
    mistakes: int = 2
    """mistakes of such a demonstration"""
    weight_decay: float = 0.01
    """of AdamW"""
