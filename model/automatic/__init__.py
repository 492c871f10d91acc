"""Segment everything: masks of a whole picture without a prompt, as segment-anything's automatic mask generator.

Example::

    from model.automatic import AutomaticMaskGenerator, AutomaticSettings

    generator = AutomaticMaskGenerator(decoder, encoder, AutomaticSettings(points_per_side=16))
    masks = generator.generate(image)
"""

from model.automatic.generator import AutomaticMaskGenerator
from model.automatic.masks import AutomaticMask
from model.automatic.settings import AutomaticSettings, settings_for

__all__ = ["AutomaticMask", "AutomaticMaskGenerator", "AutomaticSettings", "settings_for"]
