"""Connects the parts: the only modules that import every class."""
