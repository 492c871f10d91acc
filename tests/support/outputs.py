"""The output of one object, as most tests ask for it."""

from collections.abc import Sequence

from backend.labeling.config_types import LabelConfig, OutputTag
from backend.labeling.output_choice import Outputs
from backend.shapes import OUTPUT_KINDS, ShapeKind


def choose_output(
    controls: LabelConfig, labels: Sequence[str] = (), preference: Sequence[ShapeKind] = OUTPUT_KINDS
) -> OutputTag:
    """Return the control and labels of one object on the only image of ``controls``."""
    return Outputs(controls, preference).choose(labels)
