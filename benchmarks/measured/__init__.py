"""Timings on a device: `python -m benchmarks --only PART`, one file for each question."""
