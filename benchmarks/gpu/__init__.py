"""What does this project do on a real GPU? `python -m benchmarks.gpu` answers in eight minutes at most (docs/gpu.md)."""
