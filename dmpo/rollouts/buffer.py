"""The off-policy buffer: the last rounds of rollouts, from which each gradient step draws its groups (section 7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config.keys import DMPOConfig
from ..distributed.ranks import gather_rows, rank_rows
from ..distributed.sharding import whole_parameters
from ..losses.weights import effective_sample_size
from ..randomness import derive_key, uniforms
from .batch import SHARED, Batch
from .dynamic_sampling import rewards_differ
from .scoring import RoundScorer, score_again


class ReplayBuffer:
    """Up to K rounds of rollouts, the newest last.

    Slot i of a batch is group i of one of these rounds, drawn at random among the rounds whose group i was not dropped.
    So a step is as large as a round, and its groups are spread over ranks as the groups of a round are. Where group i
    of no round is left, slot i is group i of the newest round, which `accumulate_gradient` leaves out.

    Args:
        rounds: K; with 1, every step takes the newest round whole.
        seed: of the run.
        skip_equal_rewards: groups whose rewards all agree count as dropped.
    """

    def __init__(self, rounds: int, seed: int, *, skip_equal_rewards: bool = False) -> None:
        self.limit, self.seed, self.dropped = rounds, seed, 0
        self.skip_equal_rewards = skip_equal_rewards
        self.rounds: list[Batch] = []
        self.alive: list[Tensor] = []  # bool [groups], of each round

    def add(self, rollouts: Batch) -> None:
        """Add a new round; the oldest leaves where there are K already."""
        older = [dataclasses.replace(old, age=old.age + 1, drawn=None, scored=None) for old in self.rounds]
        self.rounds = [*older, rollouts][-self.limit :]
        alive = rewards_differ(rollouts.rewards) if self.skip_equal_rewards else torch.ones_like(rollouts.age).bool()
        self.alive = [*self.alive, alive][-self.limit :]

    def batch(self, step: int) -> Batch:
        """The groups of a gradient step, with the report of the newest round."""
        newest = self.rounds[-1]
        if len(self.rounds) == 1:
            return newest
        alive = torch.stack(self.alive).double()  # [K, groups]
        slots = torch.arange(alive.shape[1], device=alive.device)
        u = uniforms(derive_key(self.seed, "buffer", step), slots, 1).T  # [1, groups]
        count = alive.sum(0)
        below = alive.cumsum(0) / count.clamp(min=1) <= u
        first_above = below.sum(0)  # the first round whose share of the unit interval reaches u
        chosen = torch.where(count > 0, first_above, len(self.rounds) - 1)
        first = int(newest.row_ids[0]) % newest.rewards.numel()
        rows = torch.arange(len(newest.row_ids), device=alive.device)
        of_row = chosen[(first + rows) // newest.rewards.shape[1]]  # [B]
        width = max(kept.completions.prompt_ids.shape[1] for kept in self.rounds)
        local = {name: rounds[of_row, rows] for name, rounds in _stacked(_local(r, width) for r in self.rounds)}
        shared = {name: rounds[chosen, slots] for name, rounds in _stacked(r.shared() for r in self.rounds)}
        return Batch.join(local, shared, newest.report)

    def drop_stale(
        self, accelerator: Accelerator, model: nn.Module, objective: RoundScorer, config: DMPOConfig
    ) -> None:
        """Drop groups of earlier rounds over which softmax(log p_θ − log p_cur) has an ESS under `buffer_min_ess`."""
        for index, old in enumerate(self.rounds[:-1]):
            if not bool(self.alive[index].any()):
                continue
            with whole_parameters(model) as policy:
                own = score_again(objective, policy, old, config)
            drift = _of_all_ranks(accelerator, own, old) - old.log_prob_cur
            stale = effective_sample_size(drift.softmax(-1)) < config.buffer_min_ess
            self.dropped += int((stale & self.alive[index]).sum())
            self.alive[index] = self.alive[index] & ~stale

    def replace_reference(
        self, accelerator: Accelerator, model: nn.Module, objective: RoundScorer, config: DMPOConfig
    ) -> None:
        """Make `model` the reference of every round: score the round again, on the same views as when it was drawn."""
        for index, old in enumerate(self.rounds):
            with whole_parameters(model) as policy, torch.no_grad():
                own = score_again(objective, policy, old, config)
                scores = old.scores | objective.score_reference(policy, old.completions, old.row_ids, config)
            log_prob_ref = _of_all_ranks(accelerator, own, old)
            self.rounds[index] = dataclasses.replace(old, log_prob_ref=log_prob_ref, scores=scores)

    def report(self, batch: Batch) -> dict[str, float]:
        """See `metrics`."""
        groups = sum(int(alive.sum()) for alive in self.alive)
        return {"age": float(batch.age.double().mean()), "buffer_groups": groups, "buffer_dropped": self.dropped}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps: tensors of this rank, and plain values that all ranks share."""
        tensors: dict[str, Tensor] = {}
        for index, (rollouts, alive) in enumerate(zip(self.rounds, self.alive, strict=True)):
            of_round = rollouts.local() | rollouts.shared() | {"alive": alive}
            copies = {f"{index}.{name}": tensor.to("cpu", copy=True) for name, tensor in of_round.items()}
            tensors |= copies  # safetensors refuses one tensor under two names, which an objective's scores may be
        return tensors, {"reports": [r.report for r in self.rounds], "dropped": self.dropped}

    def load_state(
        self,
        ranks: Sequence[dict[str, Tensor]],
        values: dict[str, Any],
        *,
        rank: int,
        world: int,
        device: torch.device | str,
    ) -> None:
        """The inverse of `state`, from the tensors of all ranks that saved; any number of ranks may go on.

        Raises:
            ValueError: tensors of another version of dmpo.
        """
        self.rounds, self.alive, self.dropped = [], [], values["dropped"]
        for index, report in enumerate(values["reports"]):
            of_ranks = [_of_round(tensors, index) for tensors in ranks]
            try:
                shared = {name: of_ranks[0].pop(name).to(device) for name in (*SHARED, "alive")}
                rows = rank_rows(sum(len(tensors["row_ids"]) for tensors in of_ranks), rank, world)
                names = of_ranks[0].keys()
                whole = {name: torch.cat([tensors[name] for tensors in of_ranks]) for name in names}
                local = {name: tensor[rows].to(device) for name, tensor in whole.items()}
                self.alive.append(shared.pop("alive"))
                self.rounds.append(Batch.join(local, shared, report))
            except KeyError as error:
                raise ValueError(f"a buffer of another version of dmpo: it has no {error}") from error


def _of_all_ranks(accelerator: Accelerator, own: Tensor, rollouts: Batch) -> Tensor:
    """A value of each of this rank's rows [B] as the values of all ranks' rows [groups, G]."""
    return gather_rows(accelerator, own, rollouts.rewards.numel()).view_as(rollouts.log_prob_cur)


def _of_round(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors of one round by their names in a batch."""
    prefix = f"{index}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _stacked(rounds: Iterable[dict[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of several rounds as one, [K, ...], with its name."""
    first, *others = rounds
    return ((name, torch.stack([tensor, *(tensors[name] for tensors in others)])) for name, tensor in first.items())


def _local(rollouts: Batch, width: int) -> dict[str, Tensor]:
    """This rank's tensors by name, prompts padded on the left to `width`."""
    local = rollouts.local()
    padding = (width - rollouts.completions.prompt_ids.shape[1], 0)
    return local | {name: torch.nn.functional.pad(local[name], padding) for name in ("prompt_ids", "prompt_mask")}
