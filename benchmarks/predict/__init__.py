"""How long a round of RL would take on GPUs that nobody has measured: `python -m benchmarks.predict`."""
