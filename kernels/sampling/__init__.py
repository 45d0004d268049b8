"""Tokens drawn from logits, or from hidden states and lm_head."""

from .api import sample_tokens, sample_tokens_with_entropy
from .from_hidden import linear_sample_tokens, linear_sample_tokens_with_entropy

__all__ = [
    "linear_sample_tokens",
    "linear_sample_tokens_with_entropy",
    "sample_tokens",
    "sample_tokens_with_entropy",
]
