"""From an image's address to its pixels."""
