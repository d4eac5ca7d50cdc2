"""Accuracy: against labels, and against the outputs of a reference."""
