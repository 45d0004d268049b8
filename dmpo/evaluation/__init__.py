"""Evaluation: a checkpoint's completions of held-out rows, their scores, and what they say of it with what certainty.

`runner.evaluate_checkpoint` evaluates, `rescore.rescore` scores completions that others have saved.
"""
