"""What does dmpo do on a real GPU? `python -m benchmarks.gpu` answers in eight minutes at most (docs/gpu.md)."""
