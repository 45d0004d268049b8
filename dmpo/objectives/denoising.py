"""The masked-diffusion loss of demonstrations: LLaDA's supervised fine-tuning (Nie et al., arXiv 2502.09992, eq. 5).

An answer of L tokens draws a mask rate t ~ U[mask_rate_min, mask_rate_max], and each of its tokens is masked with
probability t. The loss of a row is Σ −log p over masked tokens, times 1 / (t·L) (`token_weights` rate) or as a mean
(`mean`, which masks at least one token); the loss of a step is the mean over its rows. With `view_rates` stratified,
the rows of a step take t from as many equal strata, and m = ⌊t·L⌋ + 1 tokens are masked: then m / L is the rate, and
both weights are the mean (eq. 6 of that paper, for the limits 0 and 1). Only masked tokens go through the last layer's
MLP and lm_head, and logits exist a tile at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config.sft import SFTConfig
from ..kernels import linear_weighted_ce
from ..models.block_causal import two_copies
from ..models.last_layer import HeadRows
from ..models.masked_lm import apply_head, unwrap
from ..randomness import derive_key, uniforms
from ..rollouts.chunks import PassLimits, chunks
from ..rollouts.demonstrations import Sequences
from ..rollouts.masking import sample_views


@dataclass(frozen=True)
class MaskedSequences:
    """Sequences; the tokens that are masked, bool [N, T]; the weight of each such token of a row, float64 [N]."""

    rows: Sequences
    masks: Tensor
    weights: Tensor

    def __getitem__(self, index: Tensor | slice) -> MaskedSequences:
        return MaskedSequences(self.rows[index], self.masks[index], self.weights[index])


@dataclass(frozen=True)
class Pass:
    """The tensors of one forward. Q are the columns that have answers, the last ones; M the masked tokens.

    ids int64 [n, T] with masks, clean int64 [n, T] without. attended: bool [n, T], None where nothing is padded.
    kept int64 [M]: indices into the n·Q columns. targets int64 [M], weights float64 [M].
    """

    ids: Tensor
    clean: Tensor
    attended: Tensor | None
    columns: int
    kept: Tensor
    targets: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Pass:
        """The same on a device, without waiting for it."""

        def moved(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        attended = None if self.attended is None else moved(self.attended)
        values = (moved(x) for x in (self.kept, self.targets, self.weights))
        return Pass(moved(self.ids), moved(self.clean), attended, self.columns, *values)


def masked(rows: Sequences, key: int, config: SFTConfig) -> MaskedSequences:
    """Draw the masks of each row. They depend on (key, row id), the place in the answer and its length alone; with
    strata also on the other row ids.

    key: of the random numbers, see `randomness.derive_key`.
    """
    counts, width = rows.answers.sum(-1, keepdim=True), rows.ids.shape[1]
    places = torch.arange(int(counts.max()))  # in the answer
    of_answer = places < counts  # [N, L]
    low, high = config.mask_rate_min, config.mask_rate_max
    if config.view_rates == "stratified":
        drawn = _of_strata(of_answer, key, rows.row_ids, (low, high))
        weights = 1 / drawn.sum(-1).double()
    elif config.token_weights == "mean":
        drawn = sample_views(of_answer, 1, key=key, row_ids=rows.row_ids, rate_range=(low, high), antithetic=False)
        weights = 1 / drawn.sum(-1).double()
    else:
        u = uniforms(derive_key(key, "answer"), rows.row_ids, len(places) + 1)
        rates = low + (high - low) * u[:, :1]
        drawn = (u[:, 1:] < rates) & of_answer
        weights = (1 / (rates * counts)).squeeze(1)
    columns = (width - counts + places).clamp(max=width - 1)  # [N, L]
    masks = torch.zeros(len(rows), width, dtype=torch.int64).scatter_add_(1, columns, drawn.long()) > 0
    return MaskedSequences(rows, masks, weights / len(rows))


def _of_strata(of_answer: Tensor, key: int, row_ids: Tensor, rates: tuple[float, float]) -> Tensor:
    """⌊t·L⌋ + 1 masked tokens a row, each row's t from a stratum of its own; bool [N, L] -> bool [N, L]."""
    count, length = of_answer.sum(-1, keepdim=True), of_answer.shape[1]
    u = uniforms(derive_key(key, "strata"), row_ids, length + 2)  # which stratum, the place in it, one draw a token
    stratum = u[:, :1].argsort(0).argsort(0)
    low, high = rates
    rate = low + (high - low) * (stratum + u[:, 1:2]) / len(u)
    number = torch.minimum((rate * count).long() + 1, count)
    rank = u[:, 2:].masked_fill(~of_answer, 2.0).argsort(-1).argsort(-1)
    return rank < number


def passes(batch: MaskedSequences, config: SFTConfig, mask_id: int, *, rows: int) -> list[Pass]:
    """The forwards of a batch, of rows of like length: at most as many tokens as `rows` of the longest have.

    Rows without a masked token add nothing to the loss, and make no pass.
    """
    counts = batch.masks.sum(-1)
    index = counts.nonzero().squeeze(1)
    limits = PassLimits.of_rows(rows, config.max_prompt_length, config.gen_length, config.mask_rate_max)
    groups = chunks(batch.rows.attended[index], counts[index], 0, limits) if len(index) else []
    return [_pass(batch[index[group.index]], group.blank, mask_id) for group in groups]


def _pass(batch: MaskedSequences, blank: int, mask_id: int) -> Pass:
    clean, attended, masks = (x[:, blank:] for x in (batch.rows.ids, batch.rows.attended, batch.masks))
    columns = int(batch.rows.answers.sum(-1).max())
    of_answers = masks[:, -columns:]
    return Pass(
        ids=clean.masked_fill(masks, mask_id),
        clean=clean,
        attended=None if bool(attended.all()) else attended,
        columns=columns,
        kept=of_answers.flatten().nonzero().squeeze(1),
        targets=clean[masks],
        weights=batch.weights.repeat_interleave(masks.sum(-1)),
    )


def blank_pass(batch: MaskedSequences, mask_id: int) -> Pass:
    """The smallest pass, for a rank that has none: the last token of the first row is masked."""
    last = torch.zeros_like(batch.masks[:1])
    last[:, -1] = True
    return _pass(MaskedSequences(batch.rows[:1], last, batch.weights[:1]), 0, mask_id)


def loss_of_pass(model: nn.Module, one: Pass, *, reach: float = 1.0) -> Tensor:
    """Σ weight · −log p over the masked tokens of a pass, with gradient; a scalar.

    reach: how far attention has widened, from 0 (causal) to 1 (bidirectional), see `widened_mask`.
    """

    def head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        targets = one.targets.unsqueeze(1)
        every = torch.ones_like(targets, dtype=torch.bool)
        return linear_weighted_ce(hidden.unsqueeze(1), weight, targets, every, one.weights, bias=bias)[0]

    width, device = one.ids.shape[1], one.ids.device
    positions = torch.arange(width - one.columns, width, device=device)
    if size := unwrap(model).block_size:
        attended = torch.ones_like(one.ids, dtype=torch.bool) if one.attended is None else one.attended
        both = two_copies(one.clean, one.ids, attended, width - one.columns, size)
        of_views = HeadRows(both.positions, one.kept)
        return apply_head(model, head, both.input_ids, both.mask, both.position_ids, rows=of_views)
    mask = one.attended
    if reach < 1:
        mask = widened_mask(torch.ones_like(one.ids, dtype=torch.bool) if mask is None else mask, reach)
    return apply_head(model, head, one.ids, mask, rows=HeadRows(positions, one.kept))


def widened_mask(attended: Tensor, reach: float) -> Tensor:
    """Attention that widens from causal to bidirectional: bool [n, 1, T, T], True where query i attends to key j.

    In a row of T tokens, i attends to every j ≤ i + ⌊reach·T⌋. DiffuLLaMA (Gong et al., arXiv 2410.17891) lets a random
    part of the later tokens be seen in its place. Here nothing is drawn.

    Args:
        attended: bool [n, T], False on padding, which attends to itself alone: so no query is without a key.
        reach: from 0 (causal) to 1 (bidirectional).
    """
    places = torch.arange(attended.shape[1], device=attended.device)
    distance = places.unsqueeze(0) - places.unsqueeze(1)  # of key j after query i
    furthest = (attended.sum(-1).double() * reach).long()  # of its own tokens: padding must change nothing
    seen = (distance <= furthest.view(-1, 1, 1)) & attended.unsqueeze(1)
    return (seen | (distance == 0)).unsqueeze(1)


def reach_of_step(config: SFTConfig, step: int) -> float:
    """How far attention has widened at a gradient step, which counts from 0."""
    steps = config.widen_attention_steps
    return 1.0 if step >= steps else step / steps


def total(model: nn.Module, every: Sequence[Pass], device: torch.device) -> float:
    """The loss of all passes, without gradient."""
    with torch.no_grad():
        losses = [loss_of_pass(model, one.to(device)).double() for one in every]
    return float(torch.stack(losses).sum()) if losses else 0.0
