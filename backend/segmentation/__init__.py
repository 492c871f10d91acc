"""Turns embeddings and prompts into regions: clicks, whole tasks, and predictions made in the background."""
