"""DensePose R-CNN with charts: persons, and of each the part of the body and where on it every pixel lies."""
