"""What a line of metrics.jsonl says, over all ranks. Nothing in it depends on how fast the machine was.

    step, round, learning_rate
    skipped                   1 where loss or gradient was not finite, so that no step was made; numbers that are not
                              finite are null
    loss, grad_norm           the loss; norm of the gradient before it is clipped
    clipped                   1 where that norm was above max_grad_norm, so that the step was cut
    ess                       effective sample size of the weights, a share of the group; mean over groups not left
                              out. Of wd1 its positive weights, of diffu_grpo |A| (0 where the rewards of a group agree)
    coeff                     proximal coefficient c, mean over groups; null for wd1 and diffu_grpo, which have none
    clip_share, kl            diffu_grpo only: the share of tokens whose gradient the clip cuts off; mean KL estimate
                              towards the reference, nats a token, null where kl_beta is 0; means over groups not left
                              out
    left_out                  groups that counted nothing as a log-probability of theirs was not finite
    age                       rounds since the completions of this step were drawn, mean over groups
    buffer_groups             groups in the buffer
    buffer_dropped            groups dropped so far because the policy had left them behind (buffer_min_ess)
  of the newest round:
    reward                    mean over completions
    reward_std_in_group       standard deviation of the rewards of one prompt, mean over prompts
    reward_failures           completions that scored 0 because the reward crashed, raised or took too long on them
    distinct_in_group         distinct completions of one prompt as a share of the group, mean over prompts
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

from collections.abc import Sequence

from torch import Tensor


def round_report(values: Tensor, sums: Sequence[float], world: int) -> dict[str, float]:
    """What a round says of itself.

    Args:
        values: float64 [groups, G, 5 or 7]: reward, log p_ref, log p_cur, mismatch, a fingerprint of the completion,
            and the two path log-probabilities where there are any.
        sums: model calls, row-forwards, tokens drawn and kept, completions that the reward failed on, and the mean
            entropy of a rank, each summed over ranks.
        world: ranks.
    """
    reward, ref, cur, mismatch, fingerprint, *paths = values.unbind(-1)
    forwards, row_forwards, drawn, failures, entropy = sums
    distinct = sum(len(group.unique()) for group in fingerprint) / fingerprint.numel()
    names = ("path_log_prob_cur", "path_log_prob_ref")
    return {
        "reward": float(reward.mean()),
        "reward_std_in_group": float(reward.std(-1).mean()),
        "reward_failures": int(failures),
        "distinct_in_group": distinct,
        "log_ratio": float((cur - ref).mean()),
        "entropy": entropy / world,
        "rollout_mismatch": float(mismatch.mean()),
        **{name: float(path.mean()) for name, path in zip(names, paths, strict=False)},
        "forwards": int(forwards),
        "row_forwards": int(row_forwards),
        "tokens_per_forward": drawn / row_forwards,
    }
