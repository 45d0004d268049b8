"""What outlives a process: whole files, JSON lines, locks, checkpoints; and what a terminal shows."""
