"""A run on disk and in the system: its folder, lock, files, checkpoints, signals and skipped steps."""
