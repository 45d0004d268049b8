"""How much memory a training step takes at sizes that no machine here holds, simulated."""
