"""From an image to its embedding, cached in this process."""
