"""Runs exported edgeseg bundles on a device, without torch."""

__version__ = "0.1.0"
