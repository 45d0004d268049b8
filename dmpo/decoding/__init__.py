"""Semi-autoregressive decoding of masked diffusion language models (docs/maths.md, section 9)."""

from .generation import Generation, generate

__all__ = ["Generation", "generate"]
