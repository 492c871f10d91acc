"""Runs over whole projects."""
