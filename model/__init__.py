"""SAM in Paddle, split in two: an encoder that runs once per image, and a decoder that runs for every prompt.

Example::

    from model import create_model

    model = create_model("demo")
    for result in model.predict("photo.jpg", prompts={"box_prompt": [[10, 20, 200, 180]]}):
        result.save_to_img("output")
"""

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.automatic import AutomaticMask as AutomaticMask
    from model.automatic import AutomaticMaskGenerator as AutomaticMaskGenerator
    from model.automatic import AutomaticSettings as AutomaticSettings
    from model.paddlex.detection import DetectionModel as DetectionModel
    from model.paddlex.detection import DetectionResult as DetectionResult
    from model.paddlex.model import SamModel as SamModel
    from model.paddlex.model import create_model as create_model
    from model.paddlex.model import load as load
    from model.paddlex.result import SamResult as SamResult
    from model.paddlex.word_segmentation import LabelledMask as LabelledMask
    from model.paddlex.word_segmentation import segment_words as segment_words
    from model.types import Embedding as Embedding
    from model.types import Prompt as Prompt

# Paddle warns of this at every import, also where nothing is compiled. It is filtered here because this module is
# imported before any other module of the package, and so before Paddle.
warnings.filterwarnings("ignore", "No ccache found", UserWarning, "paddle")

_HOMES = {
    "AutomaticMask": "model.automatic",
    "AutomaticMaskGenerator": "model.automatic",
    "AutomaticSettings": "model.automatic",
    "DetectionModel": "model.paddlex.detection",
    "DetectionResult": "model.paddlex.detection",
    "Embedding": "model.types",
    "LabelledMask": "model.paddlex.word_segmentation",
    "Prompt": "model.types",
    "SamModel": "model.paddlex.model",
    "SamResult": "model.paddlex.result",
    "create_model": "model.paddlex.model",
    "load": "model.paddlex.model",
    "segment_words": "model.paddlex.word_segmentation",
}

__all__ = [
    "AutomaticMask",
    "AutomaticMaskGenerator",
    "AutomaticSettings",
    "DetectionModel",
    "DetectionResult",
    "Embedding",
    "LabelledMask",
    "Prompt",
    "SamModel",
    "SamResult",
    "create_model",
    "load",
    "segment_words",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import model`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
