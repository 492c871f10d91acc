"""The labeling config, and what annotators marked with its controls."""
