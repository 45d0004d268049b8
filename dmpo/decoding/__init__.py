"""Semi-autoregressive decoding of masked diffusion language models (algorithm, section 8)."""

from .generation import Generation, generate

__all__ = ["Generation", "generate"]
