"""What was timed on a device: `python -m benchmarks --only PART`, one file a question."""
