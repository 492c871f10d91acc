"""Write ``tests/golden/sam/mobile.npz`` with the authors' code: ``python -m tests.reference.make_mobile_golden``."""

import numpy as np

from tests.reference import prompts
from tests.reference.make_golden import GOLDEN, SIZE
from tests.reference.meta import predict
from tests.reference.mobile import build_mobile, predictor
from tests.reference.random_weights import photo
from tests.support.mobile_files import published_state, tiny_mobile

MOBILE = GOLDEN / "mobile.npz"


def network() -> dict[str, np.ndarray]:
    """What the small network of `published_state` makes of one photo and of every kind of prompt."""
    config = tiny_mobile()
    meta_predictor = predictor(build_mobile(config, published_state(config)), photo(*SIZE))
    golden = {"embedding": meta_predictor.features[0].numpy()}
    for kind in prompts.KINDS:
        masks, scores, low_res = predict(meta_predictor, prompts.prompt(kind, SIZE, config.low_res_size), False)
        golden |= {f"{kind}/masks": np.packbits(masks), f"{kind}/scores": scores, f"{kind}/low_res": low_res}
    return golden


if __name__ == "__main__":
    np.savez_compressed(MOBILE, **network())
    print(f"{MOBILE.name}: {MOBILE.stat().st_size / 1024:.0f} KiB")
