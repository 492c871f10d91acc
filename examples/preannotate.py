"""Masks of everything in a folder's pictures, as tasks that Label Studio imports with their predictions.

Usage: ``python -m examples.preannotate photos/ --out tasks.json --images http://images.example.com/``

Import the file into a project with ``<BrushLabels name="mask" toName="image">``, of whose labels ``--label`` is one,
and an ``<Image name="image" value="$image"/>``. ``PADDLE_SAM_WEIGHTS`` names the weights, as for the service.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.composition.parts import read_weights
from backend.images.decode import PixelLimits, decode
from backend.protocol import rle
from backend.settings import read
from model import AutomaticMask, AutomaticMaskGenerator, AutomaticSettings
from model.build import load_decoder, load_encoder


def region(mask: AutomaticMask, number: int, label: str) -> dict[str, object]:
    """Return a mask as a region of Label Studio's JSON."""
    height, width = mask.mask.original_size
    return {
        "id": f"m{number}",
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "score": mask.score,
        "value": {"format": "rle", "rle": list(rle.encode(mask.mask)), "brushlabels": [label]},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tasks; a picture that cannot be read is named on standard error and left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="the file to import")
    parser.add_argument(
        "--images", default="/data/local-files/?d=", help="what stands before a file's name in its address"
    )
    parser.add_argument("--label", default="Object")
    parser.add_argument("--points-per-side", type=int, default=32, help="fewer are quicker and find fewer objects")
    options = parser.parse_args(arguments)

    checkpoint = read_weights(read(os.environ))
    settings = AutomaticSettings(points_per_side=options.points_per_side)
    generator = AutomaticMaskGenerator(load_decoder(checkpoint), load_encoder(checkpoint), settings)
    tasks = []
    for path in sorted(each for each in options.folder.iterdir() if each.is_file()):
        try:
            image = decode(path.read_bytes(), PixelLimits())
        except Exception as error:  # noqa: BLE001 - one bad file leaves the others alone
            print(f"{path.name}: {error}", file=sys.stderr)
            continue
        masks = generator.generate(image.pixels)
        result = [region(mask, number, options.label) for number, mask in enumerate(masks)]
        prediction = {"model_version": checkpoint.model_version, "result": result}
        tasks.append({"data": {"image": options.images + path.name}, "predictions": [prediction]})
    options.out.write_text(json.dumps(tasks))


if __name__ == "__main__":
    main()
