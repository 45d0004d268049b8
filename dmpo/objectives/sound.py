"""Sound groups: all of whose log-probabilities are finite. The others are left out of a step, and cost no more."""

from __future__ import annotations

import dataclasses

from accelerate import Accelerator
from torch import Tensor

from ..batch import Batch
from ..parallel import gather_rows


def sound_groups(accelerator: Accelerator, batch: Batch) -> Tensor:
    """Whether each group is sound, bool [groups]; the same on every rank, and all of them call it."""
    sound = (batch.log_prob_ref.isfinite() & batch.log_prob_cur.isfinite()).all(-1)
    scores = [of_tokens for of_tokens in (batch.one_step_cur, batch.one_step_ref) if of_tokens is not None]
    if scores:
        odd = sum((~of_tokens.isfinite()).flatten(1).any(-1).long() for of_tokens in scores)
        assert isinstance(odd, Tensor)
        sound &= gather_rows(accelerator, odd, batch.rewards.numel()).view_as(batch.rewards).sum(-1) == 0
    return sound


def with_stand_ins(batch: Batch, sound: Tensor, own: slice, mask_id: int) -> Batch:
    """The batch with mask tokens for the texts of groups that are not sound, and zeros for their numbers.

    A forward that is not finite has no finite gradient, whatever its coefficient: so their texts must not pass.

    Args:
        sound: bool [groups]. own: this rank's rows among those of all ranks.
    """
    if bool(sound.all()):
        return batch
    row = ~sound.repeat_interleave(batch.rewards.shape[1])[own].unsqueeze(1)  # [B, 1], those that need one
    completions = dataclasses.replace(
        batch.completions,
        prompt_ids=batch.completions.prompt_ids.masked_fill(row, mask_id),
        tokens=batch.completions.tokens.masked_fill(row, mask_id),
    )
    of_groups = {
        name: getattr(batch, name).masked_fill(~sound.unsqueeze(1), 0.0)
        for name in ("rewards", "log_prob_ref", "log_prob_cur")
    }
    of_tokens = {
        name: scores.masked_fill(row[:, :, None, None], 0.0)
        for name in ("one_step_cur", "one_step_ref")
        if (scores := getattr(batch, name)) is not None
    }
    return dataclasses.replace(batch, completions=completions, **of_groups, **of_tokens)
