"""Groups all of whose log-probabilities are finite. The other groups add nothing to a step."""

from __future__ import annotations

import dataclasses

import torch
from accelerate import Accelerator
from torch import Tensor

from ..distributed.ranks import gather_rows
from ..rollouts.batch import Batch


def finite_groups(accelerator: Accelerator, batch: Batch) -> Tensor:
    """Whether all log-probabilities and scores of each group are finite, bool [groups].

    The answer is the same on every rank. All ranks call it together.
    """
    finite = (batch.log_prob_ref.isfinite() & batch.log_prob_cur.isfinite()).all(-1)
    if batch.scores:
        bad = [(~scores.isfinite()).unsqueeze(-1).flatten(1).any(-1) for scores in batch.scores.values()]
        bad_scores = torch.stack(bad).sum(0)  # [B]
        gathered = gather_rows(accelerator, bad_scores, batch.rewards.numel()).view_as(batch.rewards)
        finite &= gathered.sum(-1) == 0
    return finite


def replace_non_finite(batch: Batch, finite: Tensor, own: slice, mask_id: int) -> Batch:
    """The batch with mask tokens in place of the texts of groups that are not finite, and zeros for their numbers.

    A forward that is not finite has no finite gradient, whatever its coefficient. So these texts must not pass through
    the model.

    Args:
        finite: bool [groups]. own: this rank's rows among the rows of all ranks.
    """
    if bool(finite.all()):
        return batch
    replaced = ~finite.repeat_interleave(batch.rewards.shape[1])[own]  # [B]
    completions = dataclasses.replace(
        batch.completions,
        prompt_ids=batch.completions.prompt_ids.masked_fill(replaced.unsqueeze(1), mask_id),
        tokens=batch.completions.tokens.masked_fill(replaced.unsqueeze(1), mask_id),
    )
    of_groups = {
        name: getattr(batch, name).masked_fill(~finite.unsqueeze(1), 0.0)
        for name in ("rewards", "log_prob_ref", "log_prob_cur")
    }
    scores = {
        name: of_rows.masked_fill(replaced.view(-1, *[1] * (of_rows.dim() - 1)), 0.0)
        for name, of_rows in batch.scores.items()
    }
    return dataclasses.replace(batch, completions=completions, **of_groups, scores=scores)
