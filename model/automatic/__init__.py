"""Segment everything: masks of a whole picture without a prompt, as segment-anything's automatic mask generator.

Example::

    from model import AutomaticSettings, create_model

    generator = create_model("sam_vit_b").generator(AutomaticSettings(points_per_side=16))
    for mask in generator.generate(image):  # (H, W, 3) uint8 RGB
        print(mask.area, mask.predicted_iou, mask.segmentation.shape)

`AutomaticMaskGenerator` itself takes a decoder, and an encoder where pictures rather than embeddings are given.
"""

from model.automatic.generator import AutomaticMaskGenerator
from model.automatic.masks import AutomaticMask
from model.automatic.settings import AutomaticSettings, settings_for

__all__ = ["AutomaticMask", "AutomaticMaskGenerator", "AutomaticSettings", "settings_for"]
