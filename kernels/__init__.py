"""Kernels for masked diffusion language models: masked cross-entropy, token sampling, remasking. Tensors only.

The package is `dmpo.kernels`. Python that starts in the root of the repository also finds this folder as `kernels`,
which is the name of a library of the hub: transformers imports it to read its version. Under that name the package is
empty, because a second copy of it would register every operator twice.
"""

if __name__ != "kernels":
    from . import reference
    from .linear_ce import linear_token_logprobs, linear_weighted_ce
    from .masked_ce import masked_token_logprobs, weighted_masked_ce
    from .remask import remask_, revoke_
    from .sampling import (
        linear_sample_tokens,
        linear_sample_tokens_with_entropy,
        sample_tokens,
        sample_tokens_with_entropy,
    )

    __all__ = [
        "linear_sample_tokens",
        "linear_sample_tokens_with_entropy",
        "linear_token_logprobs",
        "linear_weighted_ce",
        "masked_token_logprobs",
        "reference",
        "remask_",
        "revoke_",
        "sample_tokens",
        "sample_tokens_with_entropy",
        "weighted_masked_ce",
    ]
