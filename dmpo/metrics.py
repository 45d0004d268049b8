"""What a line of metrics.jsonl says, over all ranks. Nothing in it depends on how fast the machine was.

    step, round, learning_rate
    loss, grad_norm           WDCE loss; norm of the gradient before it is clipped
    ess                       effective sample size as a share of the group, mean over groups
  of the round that the step was made on:
    reward                    mean over completions
    reward_std_in_group       standard deviation of the rewards of one prompt, mean over prompts
    log_ratio                 mean of log p_cur - log p_ref, the ELBO on the same views; nats a completion
    entropy                   mean token entropy of the policy, nats
    forwards, row_forwards    model calls of decoding, and rows that went through them, sums over ranks
    tokens_per_forward        tokens drawn and kept for each row-forward
    rollout_mismatch          mean over completions of `rollout.rollout_mismatch`, nats a token
    path_log_prob_cur, path_log_prob_ref
                              decoder random_order only: mean log-probability of the drawn path, nats a completion;
                              exact without early_stop
  after an evaluation:
    sampled_accuracy, greedy_accuracy
The seconds of each phase are in timings.jsonl, those of decoding under `rollout`.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from .rollout import Rollouts


def step_metrics(
    accelerator: Accelerator, rollouts: Rollouts, group_size: int, *, loss: Tensor, grad_norm: Tensor, ess: Tensor
) -> dict[str, float]:
    """Metrics of one gradient step and of its round; every rank calls it with its own share, all of one size."""
    reward = rollouts.rewards.view(-1, group_size)
    means = {
        "loss": loss,
        "grad_norm": grad_norm,
        "reward": reward.mean(),
        "reward_std_in_group": reward.std(-1).mean(),
        "ess": ess.mean(),
        "log_ratio": (rollouts.log_prob_cur - rollouts.log_prob_ref).mean(),
        "entropy": rollouts.entropy,
        "rollout_mismatch": rollouts.mismatch.mean(),
    }
    for name in ("path_log_prob_cur", "path_log_prob_ref"):
        path = getattr(rollouts, name)
        if path is not None:
            means[name] = path.mean()
    counts = [rollouts.forwards, rollouts.row_forwards, rollouts.drawn]
    local = torch.stack([value.double() for value in [*means.values(), *counts]])
    *sums, forwards, row_forwards, drawn = accelerator.reduce(local, "sum").tolist()
    return {
        **{name: total / accelerator.num_processes for name, total in zip(means, sums, strict=True)},
        "forwards": int(forwards),
        "row_forwards": int(row_forwards),
        "tokens_per_forward": drawn / row_forwards,
    }
