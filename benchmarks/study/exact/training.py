"""A run on an instance: the loop of `dmpo.trainer` from the package's own pieces, without its files and evaluations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dmpo import DMPOConfig
from dmpo.config.files import build_config
from dmpo.objectives.gradient import accumulate_gradient, objective_of
from dmpo.randomness import derive_key
from dmpo.rollouts.batch import Batch, Completions
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.rollouts.rollout import complete
from dmpo.rollouts.scoring import joined_scores, path_log_prob, score_log_prob
from dmpo.run.learning_rate import learning_rate
from dmpo.run.optimizer import make_optimizer

from .instances import LENGTH, PROMPT, SPREAD, Instance, base_model, numbers
from .measures import log_policy_of

SCORES = ("elbo", "path", "exact")  # of the importance weights, see `Run.score`
USUAL: dict[str, Any] = {
    "model": "random",
    "task": "prompts",
    "task_options": {"train_file": "none"},
    "output_dir": "unused",
    "dtype": "float32",
    "lora_r": 0,
    "num_prompts": 1,
    "num_generations": 64,
    "gen_length": LENGTH,
    "block_length": LENGTH,
    "steps": LENGTH,
    "decoder": "random_order",
    "temperature": 1.0,
    "early_stop": False,
    "rollout_batch_size": 4096,
    "micro_batch_size": 0,
    "max_prompt_length": len(PROMPT),
    "replicates": 4,
    "score_views": 4,
    "gradient_steps": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "baseline": "none",
}


@cache
def _accelerator() -> Accelerator:
    return Accelerator(cpu=True)


class Run:
    """One run: its policy, reference and buffer.

    Args:
        instance: the task. changes: config keys over USUAL. scores: one of SCORES. spread: of `base_model`.
    """

    def __init__(
        self,
        instance: Instance,
        changes: dict[str, Any],
        seed: int = 0,
        scores: str = "elbo",
        spread: float = SPREAD,
    ) -> None:
        self.config: DMPOConfig = build_config(DMPOConfig, USUAL | {"alpha": instance.alpha} | changes | {"seed": seed})
        if scores not in SCORES:
            raise ValueError(f"scores must be one of {', '.join(SCORES)}, got {scores!r}")
        self.instance, self.scores = instance, scores
        self.model: Any = base_model(spread)
        self.reference = ReferencePolicy(self.model, refreshable=self.config.reference_refresh_steps > 0)
        self.optimizer = make_optimizer(self.config, self.model.parameters())
        self.objective, self.buffer = objective_of(self.config), ReplayBuffer(self.config.buffer_rounds, seed)
        self.log_ref = log_policy_of(self.model)
        self.step, self.completions, self.forwards = 0, 0, 0

    def train(self, until: int, *, watch: Callable[[Run], None] | None = None) -> None:
        """Gradient steps up to step `until`; `watch` is called after each round's last step."""
        config, trained = self.config, list(self.model.parameters())
        while self.step < until:
            if self.step % config.gradient_steps == 0:
                self.buffer.add(self.collect(self.step // config.gradient_steps))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, self.step)
            batch = self.buffer.batch(self.step)
            accumulate_gradient(_accelerator(), self.model, self.model, batch, config, self.step)
            torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.forwards += config.replicates * batch.rewards.numel()
            self.step += 1
            if watch is not None and self.step % config.gradient_steps == 0:
                watch(self)

    def collect(self, index: int) -> Batch:
        """A round, as `rollout.collect` has it."""
        config, group = self.config, self.config.num_generations
        total = config.num_prompts * group
        row_ids = index * total + torch.arange(total)
        prompt_ids = torch.tensor(PROMPT).repeat(total, 1)
        prompt_mask = torch.ones_like(prompt_ids).bool()
        seed = derive_key(config.seed, "rollout")
        options: dict[str, Any] = {"temperature": config.temperature, "steps": config.steps, "seed": seed}
        drawn = complete(self.model, prompt_ids, prompt_mask, row_ids, config, **options)
        tokens = drawn.sequences[:, len(PROMPT) :]
        rows = Completions(prompt_ids, prompt_mask, tokens, torch.ones_like(tokens).bool())
        self.completions += total
        self.forwards += drawn.row_forwards + 2 * total * (config.score_views if self.scores == "elbo" else LENGTH)
        current = self.score(self.model, rows, row_ids, drawn.order)
        scores = self.objective.score_round(self.model, rows, row_ids, config)
        with self.reference.active() as reference:
            of_reference = self.score(reference, rows, row_ids, drawn.order)
            scores = joined_scores(scores, self.objective.score_reference(reference, rows, row_ids, config))
        return Batch(
            completions=rows,
            row_ids=row_ids,
            rewards=self.instance.rewards_of(tokens).float().view(-1, group),
            log_prob_ref=of_reference.float().view(-1, group),
            log_prob_cur=current.float().view(-1, group),
            age=torch.zeros(config.num_prompts, dtype=torch.int64),
            report={},
            scores=scores,
            drawn_order=drawn.order,
        )

    @torch.no_grad()
    def score(self, policy: Any, rows: Completions, row_ids: Tensor, order: Tensor) -> Tensor:
        """log p of completions [B]: the ELBO on K views (elbo, what a run does), of the path that was drawn (path), or
        of the completion by enumeration (exact)."""
        if self.scores == "elbo":
            return score_log_prob(policy, rows, row_ids, self.config)
        if self.scores == "path":
            return path_log_prob(policy, rows, order, self.config)
        return log_policy_of(policy)[numbers(rows.tokens)]
