"""Write ``tests/golden/sam`` with Meta's code, for tests without torch: ``python -m tests.reference.make_golden``."""

from pathlib import Path

import numpy as np

from model.transforms import longest_side_size
from tests.reference import logit_maps, prompts
from tests.reference.meta import build_sam, postprocess, predict, predictor
from tests.reference.random_weights import lively_tensors, photo
from tests.support.checkpoints import tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "sam"

SIZE = (200, 300)

POSTPROCESS = [
    # kind, side of the logits, side of the model's input, the photo's (height, width)
    ("blots", 256, 1024, (3000, 4000)),
    ("blots", 256, 1024, (600, 800)),
    ("blots", 64, 256, (333, 77)),
    ("blots", 64, 128, (480, 640)),
    ("noise", 32, 128, (50, 37)),
    ("noise", 32, 128, (1, 100)),
    ("full", 32, 128, (1, 1)),
    ("specks", 32, 128, (211, 300)),
    ("one", 32, 128, (150, 100)),
    ("corner", 32, 128, (60, 90)),
    ("empty", 32, 128, (60, 90)),
    ("full", 32, 128, (60, 90)),
]


def network() -> dict[str, np.ndarray]:
    """What the small network of `lively_tensors` makes of one photo and every kind of prompt."""
    config = tiny()
    meta_predictor = predictor(build_sam(config, lively_tensors(config)), photo(*SIZE))
    golden = {"embedding": meta_predictor.features[0].numpy()}
    for kind in prompts.KINDS:
        for multimask_output in (False, True) if kind in ("point", "box", "mask") else (False,):
            prompt_of_kind = prompts.prompt(kind, SIZE, config.low_res_size)
            masks, scores, low_res = predict(meta_predictor, prompt_of_kind, multimask_output)
            key = f"{kind}/{len(masks)}"
            golden |= {f"{key}/masks": np.packbits(masks), f"{key}/scores": scores, f"{key}/low_res": low_res}
    return golden


def postprocessed() -> dict[str, np.ndarray]:
    """The masks that Meta's code makes of the low-resolution logits of `POSTPROCESS`."""
    golden = {}
    for index, (kind, low_res_size, image_size, original_size) in enumerate(POSTPROCESS):
        logits = logit_maps.logit_map(kind, low_res_size, np.random.RandomState(index))
        full = postprocess(logits, longest_side_size(original_size, image_size), original_size, image_size)
        golden[str(index)] = np.packbits(full > 0)
    return golden


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / "network.npz", **network())
    np.savez_compressed(GOLDEN / "postprocess.npz", **postprocessed())
    for path in sorted(GOLDEN.glob("*.npz")):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
