"""The model that ships, for trying things out: its scenes, its training, its weights and its judge."""

from pathlib import Path

DETECTOR = "YOLO-World-demo"
"""The name of the detector that ships: it knows about thirty words for the scenes' shapes and their colours."""
DETECTOR_FOLDER = Path(__file__).parent / "detector"

SAMPLES = Path(__file__).parent / "samples"
"""The folder of the pictures that ship with the demo model."""
