"""dmpo: reinforcement learning for masked diffusion language models by distribution matching."""
