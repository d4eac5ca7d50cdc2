"""Mask R-CNN and Keypoint R-CNN."""
