"""Landmark localisation: coordinate regression and heat maps."""
