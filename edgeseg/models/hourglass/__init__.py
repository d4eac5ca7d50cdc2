"""Stacked Hourglass."""
