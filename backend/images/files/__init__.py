"""Parses image files before they are decoded, with one module per format."""
