"""Tokens drawn from logits, or from hidden states and lm_head."""

from .api import sample_tokens
from .from_hidden import linear_sample_tokens

__all__ = ["linear_sample_tokens", "sample_tokens"]
