"""Kernels for masked diffusion language models: masked cross-entropy, token sampling, remasking. Tensors only.

The package is `dmpo.kernels`. From the root of the repository its folder also passes for the hub's library `kernels`,
which transformers imports to ask for its version: under that name the package is empty, since a second copy of it
would register every operator twice.
"""

if __name__ != "kernels":
    from . import reference
    from .linear_ce import linear_token_logprobs, linear_weighted_ce
    from .masked_ce import masked_token_logprobs, weighted_masked_ce
    from .remask import remask_, revoke_
    from .sampling import linear_sample_tokens, sample_tokens

    __all__ = [
        "linear_sample_tokens",
        "linear_token_logprobs",
        "linear_weighted_ce",
        "masked_token_logprobs",
        "reference",
        "remask_",
        "revoke_",
        "sample_tokens",
        "weighted_masked_ce",
    ]
