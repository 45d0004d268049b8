"""Measures, counts and predicts the costs of dmpo. results/ has the figures."""
