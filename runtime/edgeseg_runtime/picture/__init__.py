"""Pictures: where they come from, how they are decoded and brought to the size of a network, and back."""
