"""Expected memory of a run."""
