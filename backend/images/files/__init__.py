"""What of an image file matters to its pixels, one module per format."""
