"""CornerNet and CenterNet with key-point triplets."""
