"""What a gradient step learns from: groups of completions with their rewards and log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..rewards import Scores
from .drawn_rows import DrawnRows

SHARED = ("rewards", "log_prob_ref", "log_prob_cur", "age")  # the tensors of a batch that every rank has in full
NOT_SCORES = (
    "row_ids",
    "drawn_order",
    *SHARED,
    "alive",
    "weights",
)  # what the buffer and the evidence of a bad step save, too


@dataclass(frozen=True)
class Completions:
    """Prompts and their completions, side by side.

    prompt_ids int64 [B, P], prompt_mask bool [B, P] (False: left padding), tokens int64 [B, L], eligible bool [B, L]
    (positions that count: all, or up to the first EOS).
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    eligible: Tensor

    def repeat(self, replicates: int) -> Completions:
        """Row = replicate · B + sample."""
        return Completions(**{name: rows.repeat(replicates, 1) for name, rows in vars(self).items()})

    def __getitem__(self, rows: slice | Tensor) -> Completions:
        return Completions(self.prompt_ids[rows], self.prompt_mask[rows], self.tokens[rows], self.eligible[rows])

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Groups of G completions of one prompt each; row = group · G + completion, over all ranks.

    A rank has its own rows (`ranks.rank_rows`) of: completions; row_ids int64 [B], which name each completion in the
    whole run; scores, floating [B, ...] by name, which the objective asked for when the round was drawn
    (`scoring.RoundScorer`); and drawn_order, int [B, L], the `order` of the Generation, where training views read it,
    else None. A rank has the rows of all ranks of: rewards, log_prob_ref and log_prob_cur [groups, G], the latter two
    ELBOs in nats, or log p of the paths (loss wdce_path); and age int64 [groups], rounds since the group was drawn.
    report: what the newest round says of itself, see `metrics`. drawn: on the main rank, how the completions that the
    run logs were drawn. Only the newest round has it. A checkpoint does not keep it, because a round is logged before
    it is saved.
    scored: what the rewards said of this rank's rows, kept as long as `drawn`.

    Raises:
        ValueError: a score has the name of another tensor of the batch, is not floating, or lacks rows of completions.
    """

    completions: Completions
    row_ids: Tensor
    rewards: Tensor
    log_prob_ref: Tensor
    log_prob_cur: Tensor
    age: Tensor
    report: dict[str, float]
    scores: dict[str, Tensor] = field(default_factory=dict)
    drawn_order: Tensor | None = None
    drawn: DrawnRows | None = None
    scored: Scores | None = None

    def __post_init__(self) -> None:
        for name, values in self.scores.items():
            if name in (*vars(self.completions), *NOT_SCORES):
                raise ValueError(f"score {name!r} of an objective has the name of a tensor of every batch; rename it")
            if not values.is_floating_point() or values.shape[:1] != self.row_ids.shape:
                raise ValueError(
                    f"score {name!r} of an objective must be floating with one row for each of {len(self.row_ids)} "
                    f"completions, got {values.dtype} of shape {tuple(values.shape)}"
                )

    def local(self) -> dict[str, Tensor]:
        """This rank's rows by name: of the completions, row_ids, the scores, and the order if there is one."""
        order = {} if self.drawn_order is None else {"drawn_order": self.drawn_order}
        return {**vars(self.completions), "row_ids": self.row_ids, **order, **self.scores}

    def shared(self) -> dict[str, Tensor]:
        """What every rank has in full, by name."""
        return {name: getattr(self, name) for name in SHARED}

    @classmethod
    def join(cls, local: dict[str, Tensor], shared: dict[str, Tensor], report: dict[str, float]) -> Batch:
        """The inverse of `local` and `shared`.

        Raises:
            KeyError: a tensor is missing, by its name.
        """
        scores = dict(local)
        completions = Completions(**{name: scores.pop(name) for name in Completions.__dataclass_fields__})
        row_ids, order = scores.pop("row_ids"), scores.pop("drawn_order", None)
        groups: dict[str, Any] = {name: shared[name] for name in SHARED}
        return cls(completions=completions, row_ids=row_ids, **groups, report=report, scores=scores, drawn_order=order)


def spaced(total: int, most: int, device: torch.device) -> Tensor:
    """At most `most` of the indices 0..total-1, evenly spaced; int64."""
    count = min(total, most)
    return torch.arange(count, device=device) * total // max(1, count)
