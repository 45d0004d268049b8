"""Kernels for masked diffusion language models: masked cross-entropy, token sampling, remasking. Tensors only."""

if __name__ == "kernels":
    # From the root of the repository this folder would pass for the hub's `kernels` library, which transformers looks
    # for; a second copy of this package would register every operator twice.
    raise ImportError("this folder is the package dmpo.kernels; the library `kernels` is not installed")

from . import reference
from .linear_ce import linear_token_logprobs, linear_weighted_ce
from .masked_ce import masked_token_logprobs, weighted_masked_ce
from .remask import remask_
from .sampling import sample_tokens

__all__ = [
    "linear_token_logprobs",
    "linear_weighted_ce",
    "masked_token_logprobs",
    "reference",
    "remask_",
    "sample_tokens",
    "weighted_masked_ce",
]
