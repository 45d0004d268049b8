"""Dynamic sampling: groups whose rewards all agree give way to groups of further prompts (DAPO, arXiv 2503.14476).

The g-th further draw of round t stands for round t·(1 + N) + g of a run that draws no further prompts, N being
`resample_prompts`. So its prompts and random numbers are its own, they depend on neither the ranks nor the other groups
of the round, and no state is kept: what a round draws follows from the seed and from the rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..config.keys import DMPOConfig
from ..decoding import Generation
from ..distributed.ranks import gather_rows, rank_rows
from ..rewards import Scores

_OF_ROWS = ("log_probs", "order", "steps")  # the tensors of a generation, besides its sequences, that have its rows


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Groups of G completions of one prompt each, with their rewards; row = group · G + completion, over all ranks.

    A rank has all prompts: prompt_ids int64 [groups, P] and prompt_mask bool [groups, P], False on left padding; and
    row_ids int64 [groups · G] of all rows. It has its own rows (`ranks.rank_rows`) of the generation and the scores.
    drawn: tokens drawn and kept, failures: rows on which a reward failed, of this rank, replaced groups included.
    replaced: float64 [n] by name, of all ranks' rows that other groups have replaced: `columns`, see `resample`.
    resampled: prompts drawn in place of others.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    row_ids: Tensor
    generation: Generation
    scored: Scores
    drawn: int
    failures: int
    replaced: dict[str, Tensor] = field(default_factory=dict)
    resampled: int = 0

    @property
    def tokens(self) -> Tensor:
        """The completions of this rank's rows, int64 [B, L]."""
        return self.generation.sequences[:, self.prompt_ids.shape[1] :]

    def report(self, config: DMPOConfig) -> dict[str, int]:
        """What a round says of its draws, see `metrics`."""
        return {"prompts_resampled": self.resampled} if config.resample_prompts else {}


def rewards_differ(rewards: Tensor) -> Tensor:
    """Whether the rewards of each group differ, in float32: floating [groups, G] -> bool [groups]. NaN differs."""
    values = rewards.float()
    return values.amax(-1) != values.amin(-1)


def draw_index(round_index: int, attempt: int, draws_of_round: int) -> int:
    """The place of a draw among all draws that the rounds of a run may make; attempt 0 is the first of a round."""
    return round_index * draws_of_round + attempt


def resample(
    accelerator: Accelerator,
    first: Draw,
    draw: Callable[[int, list[int]], Draw],
    columns: Callable[[Draw, Scores], dict[str, Tensor]],
    *,
    group_size: int,
    most: int,
) -> Draw:
    """The groups of a round, those whose rewards all agree replaced by groups of further prompts, up to `most` times.

    A further draw has one prompt for each group that is to be replaced, and its completions are split over all ranks.
    All ranks call this together, and make the same draws.

    Args:
        first: the groups that the round drew first.
        draw: (attempt ≥ 1, groups of the round) → one new group in place of each of these.
        columns: (a draw, the scores of all ranks' rows of it) → what a report says of each row, [rows] on every rank.
    """
    round_draw, scores = first, _of_all_ranks(first.scored)
    for attempt in range(1, most + 1):
        if not (equal := _equal_groups(scores, group_size)):
            break
        further = draw(attempt, equal)
        new_scores = _of_all_ranks(further.scored)
        leaving = host_indices(_rows_of(equal, group_size), first.row_ids.device)
        left = {name: values[leaving] for name, values in columns(round_draw, scores).items()}
        round_draw = _with_groups(accelerator, round_draw, further, new_scores, equal, left)
        scores = _replaced(scores, new_scores, _rows_of(equal, group_size))
    return round_draw


def _with_groups(
    accelerator: Accelerator,
    old: Draw,
    new: Draw,
    new_scores: Scores,
    groups: list[int],
    left: dict[str, Tensor],
) -> Draw:
    """`old` with the groups of `new` in the places `groups`; new_scores: of all ranks' rows of `new`."""
    device, total, size = old.row_ids.device, len(old.row_ids), len(new.row_ids) // len(groups)
    rows = _rows_of(groups, size)  # of the round, in the order of the new rows
    own = range(total)[rank_rows(total, accelerator.process_index, accelerator.num_processes)]
    pairs = [(row - own.start, source) for source, row in enumerate(rows) if row in own]
    places, sources = [place for place, _ in pairs], [source for _, source in pairs]
    to, come_from = host_indices(places, device), host_indices(sources, device)

    def moved(old_rows: Tensor, new_rows: Tensor) -> Tensor:
        return old_rows.index_copy(0, to, gather_rows(accelerator, new_rows, len(rows))[come_from])

    of_rows: dict[str, Any] = {
        name: moved(getattr(old.generation, name), getattr(new.generation, name)) for name in _OF_ROWS
    }
    tokens = moved(old.tokens, new.tokens)
    width = max(old.prompt_ids.shape[1], new.prompt_ids.shape[1])
    in_round = host_indices(groups, device)
    prompts = [
        _padded(of_old, width).index_copy(0, in_round, _padded(of_new, width))
        for of_old, of_new in ((old.prompt_ids, new.prompt_ids), (old.prompt_mask, new.prompt_mask))
    ]
    of_own_rows = torch.arange(own.start, own.stop, device=device) // size
    counted = ("forwards", "row_forwards", "seconds", "positions")
    costs: dict[str, Any] = {name: getattr(old.generation, name) + getattr(new.generation, name) for name in counted}
    names = old.replaced or left
    return Draw(
        prompt_ids=prompts[0],
        prompt_mask=prompts[1],
        row_ids=old.row_ids.index_copy(0, host_indices(rows, device), new.row_ids),
        generation=Generation(sequences=torch.cat([prompts[0][of_own_rows], tokens], 1), **of_rows, **costs),
        scored=_replaced(old.scored, _chosen(new_scores, sources), places),
        drawn=old.drawn + new.drawn,
        failures=old.failures + new.failures,
        replaced={name: torch.cat([old.replaced[name], left[name]]) if old.replaced else left[name] for name in names},
        resampled=old.resampled + len(groups),
    )


def _equal_groups(scores: Scores, group_size: int) -> list[int]:
    """The groups whose rewards all agree, from the scores of all rows."""
    differ = rewards_differ(torch.tensor(scores.values, dtype=torch.float64).view(-1, group_size)).tolist()
    return [group for group, differs in enumerate(differ) if not differs]


def _rows_of(groups: Sequence[int], group_size: int) -> list[int]:
    return [group * group_size + row for group in groups for row in range(group_size)]


def _of_all_ranks(own: Scores) -> Scores:
    """The scores of all ranks' rows, in their order, on every rank."""
    joined = Scores([])
    for of_rank in gather_object([own]):
        if of_rank.values:  # a rank without rows does not know the names of the rewards
            joined = joined.extended(of_rank)
    return joined


def _chosen(scores: Scores, rows: Sequence[int]) -> Scores:
    """The scores of these rows, in this order."""
    place = {row: index for index, row in enumerate(rows)}
    return Scores(
        [scores.values[row] for row in rows],
        [failure._replace(row=place[failure.row]) for failure in scores.failures if failure.row in place],
        {name: [values[row] for row in rows] for name, values in scores.parts.items()},
    )


def _replaced(old: Scores, new: Scores, rows: Sequence[int]) -> Scores:
    """`old` with the scores `new` in these rows."""
    source = {row: index for index, row in enumerate(rows)}
    kept = [failure for failure in old.failures if failure.row not in source]
    come = [failure._replace(row=rows[failure.row]) for failure in new.failures]

    def merged(of_old: list[float], of_new: list[float]) -> list[float]:
        return [of_new[source[row]] if row in source else value for row, value in enumerate(of_old)]

    parts = {name: merged(values, new.parts[name]) for name, values in old.parts.items()} if rows else old.parts
    return Scores(merged(old.values, new.values), sorted(kept + come), parts)


def _padded(prompts: Tensor, width: int) -> Tensor:
    """Prompt ids or masks [groups, P], padded on the left to `width`; the mask says that these columns are padding."""
    return torch.nn.functional.pad(prompts, (width - prompts.shape[1], 0))


def host_indices(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices int64 on the device. On a GPU the copy is pinned, so that it does not wait for the device."""
    return torch.tensor(indices, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
