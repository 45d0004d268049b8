"""What the kernels move, compute and compile to, counted without a GPU: `python -m benchmarks --only report`."""
