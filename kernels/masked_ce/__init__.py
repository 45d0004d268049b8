"""Cross-entropy from logits."""

from .api import masked_token_logprobs, weighted_masked_ce

__all__ = ["masked_token_logprobs", "weighted_masked_ce"]
