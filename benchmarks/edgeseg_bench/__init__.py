"""Measures accuracy and latency of edgeseg predictors on labelled pictures."""
