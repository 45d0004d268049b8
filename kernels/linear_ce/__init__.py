"""Cross-entropy from hidden states and lm_head."""

from .api import linear_token_logprobs, linear_weighted_ce

__all__ = ["linear_token_logprobs", "linear_weighted_ce"]
