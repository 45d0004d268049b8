"""Importance weights and losses on plain tensors. A script that imports them pays for torch alone."""
