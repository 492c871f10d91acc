"""A mask from the embedding that a worker has put into Redis: only the small decoder is loaded, nothing is encoded.

Usage: ``python -m examples.embeddings_from_redis photo.jpg --box 112,118,513,382 --out mask.png``

``REDIS_URL``, ``PADDLE_SAM_REDIS_PREFIX``, ``PADDLE_SAM_EMBEDDING_DTYPE`` and ``PADDLE_SAM_WEIGHTS`` have to be those
of the service. An embedding is found by the content of the image's file, wherever a task has it from.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backend.cluster.store import RedisStore
from backend.composition import cluster, parts
from backend.metrics import Metrics
from backend.settings import read
from model.build import load_decoder
from model.types import Prompt


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the mask of a box as a PNG; exit with 1 if Redis does not hold the picture's embedding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--box", required=True, help="x and y of two corners, in pixels: X0,Y0,X1,Y1")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)

    settings = read(os.environ)
    checkpoint = parts.read_weights(settings)
    shared = cluster.connect(settings, checkpoint.model_version)
    try:
        store = RedisStore(shared.link, shared.keys, settings.redis_ttl_s, Metrics().stage)
        key = parts.encode_spec(settings, checkpoint).key_of(options.picture.read_bytes())
        embedding = store.fetch(key)
    finally:
        shared.link.close()
    if embedding is None:
        sys.exit(f"{options.picture}: not encoded yet; open its task in Label Studio, or run precompute on its project")
    box = [float(number) for number in options.box.split(",")]
    masks = load_decoder(checkpoint).decode(embedding, Prompt(box=box))
    Image.fromarray(masks.masks[0][0].to_array().astype(np.uint8) * 255).save(options.out)


if __name__ == "__main__":
    main()
