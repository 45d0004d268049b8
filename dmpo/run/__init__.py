"""What a run owns and keeps, whatever happens: its folder, lock and files, checkpoints, signals, skipped steps."""
