"""Reads the labeling config, and turns the shapes that annotators drew into prompts."""
