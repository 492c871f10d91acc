"""Write ``tests/golden/sam/sam2.npz`` with Meta's code: ``python -m tests.reference.make_sam2_golden``."""

from pathlib import Path

import numpy as np

from model.transforms import normalize, preprocess
from tests.reference import prompts, sam2_meta
from tests.reference.random_weights import photo
from tests.reference.sam2_weights import lively_sam2
from tests.support.sam2_files import tiny_sam2

GOLDEN = Path(__file__).parents[1] / "golden" / "sam" / "sam2.npz"
SIZE = (200, 300)


def network() -> dict[str, np.ndarray]:
    """What the small network makes of one photo and every kind of prompt, one mask and three."""
    config, image = tiny_sam2(), photo(*SIZE)
    pixels = normalize(preprocess(image, config).pixels, config)
    meta_predictor = sam2_meta.predictor(sam2_meta.build_sam2(config, lively_sam2(config)), image, pixels)
    maps = [meta_predictor._features["image_embed"], *meta_predictor._features["high_res_feats"]]
    golden = dict(zip(config.embedding_shapes, (each[0].numpy() for each in maps), strict=True))
    for kind in prompts.KINDS:
        for multimask_output in (False, True):
            masks, scores, low_res = sam2_meta.predict(
                meta_predictor, prompts.prompt(kind, SIZE, config.low_res_size), multimask_output
            )
            key = f"{kind}/{len(masks)}"
            golden |= {f"{key}/masks": np.packbits(masks), f"{key}/scores": scores, f"{key}/low_res": low_res}
    return golden


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **network())
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KiB")
