"""Everything that measures, counts or predicts what dmpo costs, and what came of it (results/)."""
