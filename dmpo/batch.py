"""What a gradient step learns from: groups of completions with their rewards and log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .likelihood import Completions


@dataclass(frozen=True)
class Batch:
    """Groups of G completions of one prompt each; row = group · G + completion, over all ranks.

    Of this rank's rows (`parallel.rank_rows`): completions, and row_ids int64 [B], which name each completion in the
    whole run. Of all ranks' rows: rewards, log_prob_ref and log_prob_cur [groups, G], the latter two ELBOs in nats, and
    age int64 [groups], rounds since they were drawn. report: what the newest round says of itself, see `metrics`.

    Of this rank's rows, where the loss is diffu_grpo: one_step_cur and (with kl_beta > 0) one_step_ref [B, F, R, L],
    log p in nats of each token at each of the F gradient steps of its round, see `objectives.one_step`.
    """

    completions: Completions
    row_ids: Tensor
    rewards: Tensor
    log_prob_ref: Tensor
    log_prob_cur: Tensor
    age: Tensor
    report: dict[str, float]
    one_step_cur: Tensor | None = None
    one_step_ref: Tensor | None = None
