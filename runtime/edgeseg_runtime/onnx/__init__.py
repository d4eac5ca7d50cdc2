"""Reads, checks and prepares ONNX graphs without the package onnx."""
