"""Sends one HTTP request for an image, and reads the answer as browsers do."""
