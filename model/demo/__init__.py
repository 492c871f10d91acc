"""The model that ships, for trying things out: its scenes, its training, its weights and its judge."""

from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
"""The folder of the pictures that ship with the demo model."""
