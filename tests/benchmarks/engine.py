"""Does one piece of work once per line on stdin, in a process of its own, as its users run it.

The OpenMP libraries of torch and Paddle slow each other down within one process, and the memory that ours keeps serves
both there. ``python -m tests.benchmarks.engine WORK``, a name of `WORKS`.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from model import config as configs
from model.config import SamConfig
from model.machine import cpu_count
from tests.benchmarks import boxed_photos, everything, subjects

Work = Callable[[], object]


def ours() -> Work:
    """A photo to its embedding with our ViT-B."""
    from model.build import load_encoder

    encoder, image = load_encoder(subjects.checkpoint(), device="cpu"), subjects.image()
    return lambda: encoder.encode(image)


def segment_anything_encode() -> Work:
    """A photo to its embedding with Meta's ViT-B."""
    predictor, image = subjects.meta_predictor(), subjects.image()
    return lambda: predictor.set_image(image)


def segment_anything_boxes(count: int) -> Work:
    """Boxes to masks with Meta's decoder, one by one."""
    predictor = subjects.meta_predictor()
    boxes = [np.array(box) for box in subjects.boxes(count)]
    return lambda: [predictor.predict(box=box, multimask_output=False) for box in boxes]


def mobile_sam_encode() -> Work:
    """A photo to its embedding with the code of MobileSAM's authors."""
    from tests.reference.mobile import build_mobile, predictor
    from tests.support.mobile_files import published_state

    config, image = configs.mobile_sam(), subjects.image()
    authors = predictor(build_mobile(config, published_state(config)), image)
    return lambda: authors.set_image(image)


def sam2_encode(make: Callable[[], SamConfig]) -> Work:
    """A photo to its embedding with Meta's SAM 2.1."""
    from tests.reference import sam2_meta
    from tests.reference.sam2_weights import lively_sam2

    config, image = make(), subjects.image()
    predictor: Any = sam2_meta.predictor(sam2_meta.build_sam2(config, lively_sam2(config)), image)
    return lambda: predictor.set_image(image)


WORKS: dict[str, Callable[[], Work]] = {
    "ours": ours,
    "segment_anything_encode": segment_anything_encode,
    "segment_anything_box": partial(segment_anything_boxes, 1),
    "segment_anything_boxes": partial(segment_anything_boxes, subjects.MANY),
    "mobile_sam_encode": mobile_sam_encode,
    "sam2.1_hiera_tiny": partial(sam2_encode, configs.sam2_1_hiera_tiny),
    "sam2.1_hiera_small": partial(sam2_encode, configs.sam2_1_hiera_small),
    "sam2.1_hiera_base_plus": partial(sam2_encode, configs.sam2_1_hiera_base_plus),
    "boxed_photos": boxed_photos.theirs,
    **{scene: partial(everything.theirs, scene) for scene in everything.SCENES},
}


def main() -> None:
    """Answer each line."""
    name = sys.argv[1]
    if name != "ours":
        import torch

        torch.set_num_threads(cpu_count())
    work = WORKS[name]()
    for _ in sys.stdin:
        work()
        print("answered", flush=True)


if __name__ == "__main__":
    main()
