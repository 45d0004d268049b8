"""The off-policy buffer: the last rounds of rollouts, from which each gradient step draws its groups (section 7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .batch import Batch
from .config import DMPOConfig
from .likelihood import Completions
from .objectives.one_step import round_log_probs
from .parallel import gather_rows, rank_rows
from .randomness import derive_key, uniforms
from .rollout import score_log_prob
from .sharding import whole_parameters
from .weights import effective_sample_size

LOCAL = ("prompt_ids", "prompt_mask", "tokens", "eligible", "row_ids")  # a rank's own rows
SCORES = ("one_step_cur", "one_step_ref")  # of those rows, too, where the loss needs them
SHARED = ("rewards", "log_prob_ref", "log_prob_cur", "age")  # every rank holds all


class ReplayBuffer:
    """Up to K rounds of rollouts, the newest last.

    A round has a place for each of its groups. A step takes, at every place, the group of one of the rounds kept, drawn
    at random among those that still have theirs: so a step is as large as a round and spread over ranks as a round is.

    Args:
        rounds: K; with 1, every step takes the newest round whole.
        seed: of the run.
    """

    def __init__(self, rounds: int, seed: int) -> None:
        self.limit, self.seed, self.dropped = rounds, seed, 0
        self.rounds: list[Batch] = []
        self.alive: list[Tensor] = []  # bool [groups], of each round

    def add(self, rollouts: Batch) -> None:
        """Take a new round in; the oldest leaves where there are K."""
        older = [dataclasses.replace(old, age=old.age + 1) for old in self.rounds]
        self.rounds = [*older, rollouts][-self.limit :]
        self.alive = [*self.alive, torch.ones_like(rollouts.age).bool()][-self.limit :]

    def batch(self, step: int) -> Batch:
        """The groups of a gradient step; the report is the newest round's."""
        newest = self.rounds[-1]
        if len(self.rounds) == 1:
            return newest
        alive = torch.stack(self.alive).double()  # [K, groups]
        places = torch.arange(alive.shape[1], device=alive.device)
        u = uniforms(derive_key(self.seed, "buffer", step), places, 1).T  # [1, groups]
        below = alive.cumsum(0) / alive.sum(0) <= u
        chosen = below.sum(0)  # the first round whose share of the unit interval reaches u
        first = int(newest.row_ids[0]) % newest.rewards.numel()
        rows = torch.arange(len(newest.row_ids), device=alive.device)
        of_row = chosen[(first + rows) // newest.rewards.shape[1]]  # [B]
        width = max(r.completions.prompt_ids.shape[1] for r in self.rounds)
        parts = [_local(r, width) for r in self.rounds]
        local = {name: torch.stack([part[name] for part in parts])[of_row, rows] for name in parts[0]}
        shared = {name: torch.stack([getattr(r, name) for r in self.rounds])[chosen, places] for name in SHARED}
        return _join(local, shared, newest.report)

    def drop_stale(self, accelerator: Accelerator, model: nn.Module, config: DMPOConfig) -> None:
        """Drop groups of earlier rounds over which softmax(log p_θ − log p_cur) has an ESS under `buffer_min_ess`."""
        for index, old in enumerate(self.rounds[:-1]):
            if not bool(self.alive[index].any()):
                continue
            drift = _score(accelerator, model, old, config) - old.log_prob_cur
            stale = effective_sample_size(drift.softmax(-1)) < config.buffer_min_ess
            self.dropped += int((stale & self.alive[index]).sum())
            self.alive[index] = self.alive[index] & ~stale

    def replace_reference(self, accelerator: Accelerator, model: nn.Module, config: DMPOConfig) -> None:
        """Make `model` the reference of every round: its scores anew, on the same views as those of rollout time."""
        for index, old in enumerate(self.rounds):
            log_prob_ref, one_step = _score(accelerator, model, old, config), None
            if old.one_step_ref is not None:
                with whole_parameters(model) as policy:
                    one_step = round_log_probs(policy, old.completions, old.row_ids, config)
            self.rounds[index] = dataclasses.replace(old, log_prob_ref=log_prob_ref, one_step_ref=one_step)

    def report(self, batch: Batch) -> dict[str, float]:
        """See `metrics`."""
        groups = sum(int(alive.sum()) for alive in self.alive)
        return {"age": float(batch.age.double().mean()), "buffer_groups": groups, "buffer_dropped": self.dropped}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps: tensors of this rank, and plain values that all ranks share."""
        tensors: dict[str, Tensor] = {}
        for index, (rollouts, alive) in enumerate(zip(self.rounds, self.alive, strict=True)):
            part = _local(rollouts, rollouts.completions.prompt_ids.shape[1])
            part |= {name: getattr(rollouts, name) for name in SHARED} | {"alive": alive}
            tensors |= {f"{index}.{name}": tensor.cpu() for name, tensor in part.items()}
        return tensors, {"reports": [r.report for r in self.rounds], "dropped": self.dropped}

    def load_state(
        self,
        parts: Sequence[dict[str, Tensor]],
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
            try:
                kept = [name for name in SCORES if f"{index}.{name}" in parts[0]]
                local = {name: torch.cat([part[f"{index}.{name}"] for part in parts]) for name in (*LOCAL, *kept)}
                shared = {name: parts[0][f"{index}.{name}"].to(device) for name in (*SHARED, "alive")}
            except KeyError as error:
                raise ValueError(f"a buffer of another version of dmpo: it has no {error}") from error
            rows = rank_rows(len(local["row_ids"]), rank, world)
            self.alive.append(shared.pop("alive"))
            self.rounds.append(_join({k: v[rows].to(device) for k, v in local.items()}, shared, report))


def _score(accelerator: Accelerator, model: nn.Module, rollouts: Batch, config: DMPOConfig) -> Tensor:
    """ELBO under a policy [groups, G] of all ranks' rows, on the views on which they were scored when drawn."""
    with whole_parameters(model) as policy:
        own = score_log_prob(policy, rollouts.completions, rollouts.row_ids, config)
    return gather_rows(accelerator, own, rollouts.rewards.numel()).view_as(rollouts.log_prob_cur)


def _local(rollouts: Batch, width: int) -> dict[str, Tensor]:
    """This rank's tensors by name, prompts padded on the left to `width`."""
    own = vars(rollouts.completions) | {"row_ids": rollouts.row_ids}
    own |= {name: scores for name in SCORES if (scores := getattr(rollouts, name)) is not None}
    pad = (width - rollouts.completions.prompt_ids.shape[1], 0)
    return own | {name: torch.nn.functional.pad(own[name], pad) for name in ("prompt_ids", "prompt_mask")}


def _join(local: dict[str, Tensor], shared: dict[str, Tensor], report: dict[str, float]) -> Batch:
    completions = Completions(*(local[name] for name in LOCAL[:-1]))
    rewards, log_prob_ref, log_prob_cur, age = (shared[name] for name in SHARED)
    scores = {name: local.get(name) for name in SCORES}
    return Batch(completions, local["row_ids"], rewards, log_prob_ref, log_prob_cur, age, report, **scores)
