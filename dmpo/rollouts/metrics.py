"""What a line of metrics.jsonl says, over all ranks. Nothing in it depends on how fast the machine was.

    step                      gradient steps so far, this one included
    round                     rounds of rollouts before this one
    learning_rate             of this step
    skipped                   1 where loss or gradient was not finite, so that the weights stayed as they were; numbers
                              that are not finite are null
    loss                      the loss of the step
    grad_norm                 norm of the gradient before it is clipped
    clipped                   1 where that norm was above max_grad_norm, so that the step was cut
    ess                       effective sample size of the weights, a share of the group; mean over groups not left
                              out. What the weights are, the file of the loss in `dmpo.objectives` says
    coeff                     proximal coefficient c, mean over groups; null where the loss has none
    clip_share, kl, ...       what else the loss reports, see its file; means over groups not left out
    left_out                  groups left out of the step, as one of their log-probabilities was not finite
    left_out_equal            skip_equal_rewards only: groups left out of the step, as their rewards all agree
    idle                      skip_equal_rewards only: 1 where the rewards of every group agree, so that no step was
                              made: weights and optimizer stayed as they were, loss and grad_norm are 0
    age                       rounds since the completions of this step were drawn, mean over groups
    buffer_groups             groups in the buffer from which steps draw
    buffer_dropped            groups dropped so far because the policy had left them behind (buffer_min_ess)
  of the newest round:
    reward                    mean over completions
    reward_std_in_group       standard deviation of the rewards of one prompt, mean over prompts
    equal_rewards             share of the prompts whose completions all have the same reward
    prompts_resampled         resample_prompts only: prompts drawn in place of others. Rewards, equal_rewards,
                              distinct_in_group and the cost of decoding are of all completions that the round drew.
                              log_ratio, entropy, rollout_mismatch and the paths are of those that it kept
    reward/NAME, reward_std/NAME
                              of each of several rewards: mean and standard deviation over the completions to which it
                              applies, before it is weighted; null where these are too few
    reward_failures           completions on which a reward crashed, raised or took too long; it scored 0
    distinct_in_group         distinct completions of one prompt as a share of the group, mean over prompts
    log_ratio                 mean of log p_cur - log p_ref, the ELBO on the same views; nats a completion
    entropy                   mean token entropy of the policy, nats
    forwards                  model calls of decoding, sum over ranks
    row_forwards              rows that went through the model calls of decoding, sum over ranks
    positions                 positions that went through the model calls of decoding, sum over ranks: fewer than rows
                              times columns with a cache or without a suffix
    tokens_per_forward        tokens drawn and kept for each row-forward
    rollout_mismatch          mean over completions of `scoring.rollout_mismatch`, nats a token
    path_log_prob_cur, path_log_prob_ref
                              decoder random_order only: mean log-probability of the drawn path, nats a completion;
                              exact without early_stop
  after an evaluation:
    sampled_accuracy          share of the validation rows whose completion at eval_temperature is right
    greedy_accuracy           share of the validation rows whose greedy completion is right
    sampled_reward            in place of sampled_accuracy, where a task cannot say what is right: the mean reward
    greedy_reward             in place of greedy_accuracy, where a task cannot say what is right: the mean reward
  of supervised fine-tuning (`dmpo sft`):
    masked                    masked tokens of the step, over all ranks: those that the loss is of
    attention_reach           widen_attention_steps only: how far later tokens are seen, as a share of the row; 0 is
                              causal, 1 bidirectional
    held_out_loss             the loss of the validation rows, on masks that never change
The seconds of each phase are in timings.jsonl; the seconds of decoding are under `rollout`.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..rewards import Scores
from .dynamic_sampling import rewards_differ

_EACH = "reward/"  # before the names of several rewards


def round_report(
    columns: dict[str, Tensor], sums: dict[str, float], *, group_size: int, world: int
) -> dict[str, float]:
    """What a round says of itself.

    Args:
        columns: float64 of all ranks' completions: reward, log_prob_ref, log_prob_cur, rollout_mismatch, row_hash
            (`scoring.row_hash`), path_log_prob_cur and path_log_prob_ref where the decoder has them, and
            `reward_columns`. Those of rewards and row_hash may go on with completions that the round has replaced.
        sums: over ranks: forwards, row_forwards, positions, drawn (tokens drawn and kept), reward_failures, and the
            mean entropy of each rank.
        group_size: G, completions of one prompt.
        world: ranks.
    """
    rewards, hashes = (columns[name].view(-1, group_size) for name in ("reward", "row_hash"))
    distinct = sum(len(group.unique()) for group in hashes) / hashes.numel()
    paths = [name for name in ("path_log_prob_cur", "path_log_prob_ref") if name in columns]
    return {
        "reward": float(rewards.mean()),
        "reward_std_in_group": float(rewards.std(-1).mean()),
        "equal_rewards": float((~rewards_differ(rewards)).double().mean()),
        **_of_each_reward(columns),
        "reward_failures": int(sums["reward_failures"]),
        "distinct_in_group": distinct,
        "log_ratio": float((columns["log_prob_cur"] - columns["log_prob_ref"]).mean()),
        "entropy": sums["entropy"] / world,
        "rollout_mismatch": float(columns["rollout_mismatch"].mean()),
        **{name: float(columns[name].mean()) for name in paths},
        "forwards": int(sums["forwards"]),
        "row_forwards": int(sums["row_forwards"]),
        "positions": int(sums["positions"]),
        "tokens_per_forward": sums["drawn"] / sums["row_forwards"],
    }


def reward_columns(scores: Scores) -> dict[str, list[float]]:
    """The values of each of several rewards, by the names that `round_report` reads."""
    return {f"{_EACH}{name}": values for name, values in scores.parts.items()}


def _of_each_reward(columns: dict[str, Tensor]) -> dict[str, float]:
    report: dict[str, float] = {}
    for column, values in columns.items():
        if column.startswith(_EACH):
            applying = values[~values.isnan()]
            name = column.removeprefix(_EACH)
            report |= {f"{_EACH}{name}": _mean(applying), f"reward_std/{name}": _spread(applying)}
    return report


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def _spread(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else math.nan
