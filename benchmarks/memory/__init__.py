"""The memory of a training step at sizes that no machine here can hold, simulated."""
