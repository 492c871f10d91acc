"""Image files: parsed, their cost checked, and opened to be decoded as a browser shows them."""
