"""Where a round waits for the device: by phase and place, how often at most in any of the cases of round_group.

A round of two completions has one batch of rollouts, two batches of views that two policies score, and two
micro-batches of an update. A test fails at a place that is not here, and at more waits than are here.
"""

from __future__ import annotations

PADDING = (
    "tolist dmpo/models/tokenizer.py:padding"  # where the longest prompt of a pass begins, and whether any is padded
)
MASKED_ROWS = "nonzero dmpo/kernels/linear_ce/weighted_operator.py:weighted_op"  # how many rows the head is for
SCORED_ROWS = "nonzero dmpo/rollouts/likelihood.py:kept_positions"  # how many rows the last layer and the head are for
CHUNKS = "tolist dmpo/rollouts/chunks.py:chunks"  # lengths of the prompts and scored tokens of all views
LOOK = "tolist dmpo/decoding/loop.py:_advance"  # a step's result, where it is not known beforehand
ENDED_ROWS = "tolist dmpo/decoding/loop.py:_end"  # which rows drew an EOS, at the end of a block
FIRST_DRAW = "copy from host dmpo/kernels/sampling/triton_kernels.py:_forbidden"  # once a process

# Of one `generate`, outside of its steps.
UP_FRONT = {"copy to host dmpo/decoding/generation.py:_check": 1}  # prompts, to be checked and compared
UP_FRONT_PADDED = {
    "copy to host dmpo/decoding/generation.py:_check": 2,  # and the attention mask
    PADDING: 1,
}

ROUND = {
    "rollout": {
        **UP_FRONT_PADDED,
        FIRST_DRAW: 1,
        LOOK: 4,  # a step, with a threshold
        "copy from host dmpo/rollouts/rollout.py:draw_groups": 2,  # prompts and their mask
        "_local_scalar_dense dmpo/rollouts/rollout.py:draw_groups": 1,  # drawn tokens
        "tolist dmpo/rollouts/rollout.py:_score_soon": 1,  # the rows of a batch, for the thread that calls the reward
        "copy to host dmpo/rollouts/rollout.py:_score_soon": 1,  # their completions
    },
    "reward": {},
    "score": {
        "copy from host dmpo/rollouts/rollout.py:collect": 1,  # rewards
        PADDING: 1,  # the entropy's own pass
        CHUNKS: 4,  # one a score: 2, random_order and diffu_grpo 4
        "copy from host dmpo/rollouts/chunks.py:chunks": 4,
        "_local_scalar_dense dmpo/rollouts/likelihood.py:_check_padding": 4,  # 2, random_order 4
        SCORED_ROWS: 21,  # one a pass: 5, diffu_grpo 21
        "_local_scalar_dense dmpo/rollouts/masking.py:_draw": 3,
        "copy from host dmpo/rollouts/scoring.py:row_hash": 1,
        "copy from host dmpo/distributed/ranks.py:summed": 1,
        "tolist dmpo/distributed/ranks.py:summed": 1,
        "_local_scalar_dense dmpo/distributed/ranks.py:summed": 1,
        # The exact log-probability of a path: random_order alone.
        "_local_scalar_dense dmpo/rollouts/likelihood.py:ordered_log_probs": 2,
        "_unique2 dmpo/rollouts/likelihood.py:ordered_log_probs": 2,
        "nonzero of an index dmpo/rollouts/likelihood.py:ordered_log_probs": 2,
        "copy from host dmpo/rollouts/likelihood.py:token_log_probs": 8,  # a Python number into one entry of the bias
        "copy from host dmpo/rollouts/mask_draws.py:gauss_nodes": 3,  # the views of gauss; one a score
    },
    "update": {
        CHUNKS: 3,  # 1; wdce with theta 2, wddo 3
        "copy from host dmpo/rollouts/chunks.py:chunks": 3,
        "_local_scalar_dense dmpo/rollouts/likelihood.py:_check_padding": 2,  # wdce with theta 1, wddo 2
        MASKED_ROWS: 3,  # one a micro-batch; wddo 3
        SCORED_ROWS: 7,  # one a pass: 2; wddo 7
        "nonzero of an index dmpo/losses/views.py:hidden_token_logprobs": 2,  # diffu_grpo, and its backward:
        "nonzero of an index elsewhere": 1,
        "_local_scalar_dense dmpo/rollouts/masking.py:_draw": 1,
        "_local_scalar_dense dmpo/losses/weights.py:_check_group": 6,  # 3; with ess_target 6
        "_local_scalar_dense dmpo/losses/weights.py:importance_weights": 1,
        "copy from host dmpo/losses/weights.py:importance_weights": 1,  # wd1
        "_local_scalar_dense dmpo/losses/weights.py:baseline_weights": 1,  # theta
        "_local_scalar_dense dmpo/objectives/finite.py:replace_non_finite": 1,
        "_local_scalar_dense dmpo/objectives/wdce.py:terms": 1,  # theta
        "_local_scalar_dense dmpo/objectives/wddo.py:terms": 1,
        "_local_scalar_dense dmpo/objectives/residuals.py:squared_residuals": 1,  # rspo, tb
        "_local_scalar_dense dmpo/objectives/gradient.py:accumulate_gradient": 2,
        "_local_scalar_dense dmpo/objectives/gradient.py:_report": 4,  # 3; with skip_equal_rewards 4
        "tolist dmpo/objectives/gradient.py:_micro_batches": 1,  # the completions left, with skip_equal_rewards
        "nonzero of an index dmpo/objectives/gradient.py:_report": 2,
        "_local_scalar_dense dmpo/distributed/ranks.py:summed": 3,  # one a number
        "copy from host dmpo/distributed/ranks.py:summed": 1,
        "tolist dmpo/distributed/ranks.py:summed": 1,
        "copy from host dmpo/rollouts/mask_draws.py:gauss_nodes": 1,
        # wdce_path with theta: as in the scores.
        "_local_scalar_dense dmpo/objectives/wdce_path.py:terms": 1,
        "_local_scalar_dense dmpo/rollouts/likelihood.py:ordered_log_probs": 1,
        "_unique2 dmpo/rollouts/likelihood.py:ordered_log_probs": 1,
        "nonzero of an index dmpo/rollouts/likelihood.py:ordered_log_probs": 1,
        "copy from host dmpo/rollouts/likelihood.py:token_log_probs": 4,
    },
    "refresh": {},
}
