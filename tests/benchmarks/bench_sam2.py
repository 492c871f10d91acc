"""SAM 2.1 on this machine's processor: a photo to its embedding against Meta's code, and a click beside ViT-B's."""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from model.build import load_decoder, load_encoder
from model.config import SamConfig, sam2_1_hiera_base_plus, sam2_1_hiera_small, sam2_1_hiera_tiny
from model.transforms import longest_side_size
from model.types import Embedding, Prompt
from tests.benchmarks import bench_cluster, subjects
from tests.benchmarks.rows import Row, compare, say
from tests.reference.sam2_weights import lively_sam2
from tests.support.checkpoints import checkpoint_of
from tests.support.redis_server import PROGRAM

ROUNDS = 5
CLICKS = 15
HIT_LIMIT_MS = 8.0
SIZES = ((sam2_1_hiera_tiny, 0.9), (sam2_1_hiera_small, None), (sam2_1_hiera_base_plus, None))


def run() -> Iterator[Row]:
    """Compare each size's encoder with Meta's, and a warm click with one of ViT-B."""
    yield _click(sam2_1_hiera_tiny())
    if PROGRAM is not None:
        yield bench_cluster.hit("Redis hit, 8 MiB, median", _embedding(sam2_1_hiera_tiny()), HIT_LIMIT_MS)
    if find_spec("sam2") is None:
        say("sam2 is not installed: its encoders are not measured")
        return
    for make, goal in SIZES:
        yield _encode(make(), goal)


def _encode(config: SamConfig, goal: float | None) -> Row:
    image, encoder = subjects.image(), load_encoder(checkpoint_of(config, lively_sam2(config)), device="cpu")
    with subjects.engine(config.name) as theirs:
        return compare(
            f"encoder, {config.name} at {config.image_size}",
            lambda: encoder.encode(image),
            lambda: subjects.ask(theirs),
            against="sam2, torch eager",
            goal=goal,
            rounds=ROUNDS,
        )


def _embedding(config: SamConfig, model_version: str = "random@00000000") -> Embedding:
    random = np.random.RandomState(0)
    maps = {name: random.standard_normal(shape).astype(np.float16) for name, shape in config.embedding_shapes.items()}
    size, square = subjects.PHOTO_SIZE, (config.image_size, config.image_size)
    return Embedding(maps.pop("image_embedding"), size, square, model_version, further_maps=maps, family=config.family)


def _click(config: SamConfig) -> Row:
    checkpoint = checkpoint_of(config, lively_sam2(config))
    ours, other = load_decoder(checkpoint, device="cpu"), load_decoder(subjects.checkpoint(), device="cpu")
    embedding, size = _embedding(config, ours.model_version), subjects.PHOTO_SIZE
    vit_b = Embedding(embedding.image_embedding, size, longest_side_size(size, config.image_size), other.model_version)
    click = Prompt(point_coords=[[300.0, 200.0]], point_labels=[1])
    return compare(
        f"warm click, {config.name}",
        lambda: ours.decode(embedding, click),
        lambda: other.decode(vit_b, click),
        against="a warm click of ViT-B",
        goal=1.1,
        rounds=CLICKS,
    )
