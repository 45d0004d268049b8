"""Evaluation: completions of held-out rows by a checkpoint, their scores, and accuracies with intervals.

`runner.evaluate_checkpoint` evaluates, `rescore.rescore` scores completions that others have saved.
"""
