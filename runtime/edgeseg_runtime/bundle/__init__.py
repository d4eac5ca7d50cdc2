"""What a bundle is: its manifest, graphs, weights and files."""
