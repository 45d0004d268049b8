"""Whole runs of dmpo as a user starts them: accuracy of the embedded models, kills, hostile texts."""
