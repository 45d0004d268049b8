"""Ranks, sharded models, DeepSpeed."""
