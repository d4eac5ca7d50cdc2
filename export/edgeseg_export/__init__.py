"""Turns reference models into bundles: trace, operator bodies, parity, files."""
