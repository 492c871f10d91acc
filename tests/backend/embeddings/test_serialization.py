"""Embeddings stored as float16 give the masks that float32 gives; measured, not assumed."""

from pathlib import Path

import numpy as np
import pytest

from backend.embeddings.serialization import dump, load
from model.build import load_decoder, load_encoder
from model.config import sam2_1_hiera_tiny, vit_b
from model.types import Prompt
from model.weights import Checkpoint, read
from tests.reference.random_weights import lively_tensors, photo
from tests.reference.sam2_weights import lively_sam2
from tests.support.checkpoints import checkpoint_of
from tests.support.sam2_files import tiny_sam2
from tests.support.scenes import box, centre_click, largest, scene_file

DEMO = Path(__file__).parents[3] / "model" / "demo" / "demo.safetensors"
SAME = 0.999


def stored(embedding, dtype="float16"):
    """What comes out of any store."""
    return load(dump(embedding, "k", dtype), "k")


def agreement(checkpoint, image, prompts):
    """Intersection over union, over all prompts together, of the masks from an embedding and from its stored copy."""
    encoder, decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")
    embedding = encoder.encode(image)
    assert embedding.image_embedding.dtype == np.float32
    pairs = zip(decoder.decode(embedding, prompts).masks, decoder.decode(stored(embedding), prompts).masks, strict=True)
    masks = [(exact[0].to_array(), rounded[0].to_array()) for exact, rounded in pairs]
    assert any(0 < exact.mean() < 1 for exact, _ in masks), "masks that are all or nothing prove nothing"
    intersection = sum(int((exact & rounded).sum()) for exact, rounded in masks)
    either = sum(int((exact | rounded).sum()) for exact, rounded in masks)
    return intersection / either


def prompts(height, width):
    """Points and boxes over the whole image."""
    prompts_of_image = []
    for down in (0.25, 0.5, 0.75):
        for across in (0.25, 0.5, 0.75):
            x, y = across * width, down * height
            prompts_of_image.append(Prompt(point_coords=np.array([[x, y]]), point_labels=np.array([1])))
            prompts_of_image.append(
                Prompt(box=np.array([x - width / 6, y - height / 6, x + width / 6, y + height / 6]))
            )
    return prompts_of_image


@pytest.mark.skipif(not DEMO.exists(), reason="the demo model is not part of this checkout")
@pytest.mark.parametrize("seed", range(3))
def test_the_demo_models_masks_stay_the_same(seed):
    scene = scene_file(seed).scene
    index = largest(scene)
    x, y = centre_click(scene, index)
    three_prompts = [
        Prompt(point_coords=np.array([[x, y]], float), point_labels=np.array([1])),
        Prompt(box=np.array(box(scene, index), float)),
        *prompts(*scene.image.shape[:2]),
    ]
    assert agreement(read(DEMO, "demo"), scene.image, three_prompts) >= SAME


def test_a_small_random_networks_masks_stay_the_same(tiny_checkpoint):
    assert agreement(tiny_checkpoint, photo(200, 300), prompts(200, 300)) >= SAME


def test_a_small_random_sam2s_masks_stay_the_same():
    checkpoint = checkpoint_of(tiny_sam2(), lively_sam2(tiny_sam2()))
    assert agreement(checkpoint, photo(200, 300), prompts(200, 300)) >= SAME


@pytest.mark.slow
def test_a_random_sam2_tinys_masks_stay_the_same():
    checkpoint = checkpoint_of(sam2_1_hiera_tiny(), lively_sam2(sam2_1_hiera_tiny()))
    assert agreement(checkpoint, photo(600, 800), prompts(600, 800)) >= SAME


@pytest.mark.slow
def test_a_random_vit_bs_masks_stay_the_same(tmp_path):
    checkpoint = Checkpoint("vit_b", vit_b(), lively_tensors(vit_b()), "0" * 64, "native", tmp_path / "vit_b")
    assert agreement(checkpoint, photo(600, 800), prompts(600, 800)) >= SAME
