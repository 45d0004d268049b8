"""An objective of your own: weights of each group, and a loss that is a sum over masked views.

    python examples/own_objective.py

The config key `loss` names it as `module:name`, here in a script as in a YAML file. This one trains on the better half
of each group: its completions share a weight of 1, the others have none. Ranks, micro-batches, dropout, skipped steps
and checkpoints remain the business of the loop.
"""

from __future__ import annotations

import dataclasses
import tempfile

import torch
from torch import Tensor

from dmpo import DMPOConfig, DMPOTrainer, ImportanceWeights
from dmpo.config import load_config
from dmpo.losses.weights import effective_sample_size
from dmpo.objectives.step import Objective, Step, Terms, weighted_ce
from dmpo.objectives.target import fresh_views
from dmpo.rollouts.batch import Batch


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Weights [groups, G] that sum to 1 over a group; there is no proximal coefficient [groups]."""
    better = (batch.rewards >= batch.rewards.median(-1, keepdim=True).values).to(batch.rewards)
    weights = better / better.sum(-1, keepdim=True)
    return ImportanceWeights(weights, None, effective_sample_size(weights)), torch.full_like(weights[:, 0], torch.nan)


def terms(step: Step, weights: ImportanceWeights) -> Terms:
    """Σ w · mean NLL over a group, mean over views and groups."""
    views = fresh_views(step)  # bool [R · B, L]
    rows = step.batch.completions.repeat(step.config.replicates)
    return Terms(rows, views, weighted_ce(rows, views, step.spread(weights.positive)), scored=views)


BETTER_HALF = Objective(group_weights=group_weights, terms=terms)


def main() -> None:
    config = dataclasses.replace(
        load_config(DMPOConfig, "sudoku-tiny"),  # its model comes with the package
        loss="own_objective:BETTER_HALF",  # in this file, own_objective.py
        output_dir=tempfile.mkdtemp(prefix="own-objective-"),
        num_prompts=2,
        learning_rate=5e-4,
        warmup_steps=1,
        gradient_steps=4,
        max_steps=8,
        eval_steps=0,
        eval_prompts=4,
    )
    DMPOTrainer(config).train()


if __name__ == "__main__":
    main()
