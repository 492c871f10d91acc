"""Connections that end at a deadline, for every HTTP client."""
