"""How long a round of RL would take on GPUs that are not at hand: `python -m benchmarks.predict`."""
