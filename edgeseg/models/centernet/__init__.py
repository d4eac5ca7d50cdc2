"""CenterNet, objects as points."""
