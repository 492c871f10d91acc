"""One request for an image, answered as browsers read answers."""
