"""With the same weights, everything in a picture is what segment-anything 1.0 finds in it."""

import numpy as np
import pytest

from demo_training.scenes import render_scene
from model.automatic import AutomaticMaskGenerator, AutomaticSettings
from model.build import load_decoder, load_encoder
from model.config import vit_b
from model.paddlex.model import DEMO_WEIGHTS
from model.weights import read
from tests.reference.random_weights import lively_tensors, photo
from tests.support.checkpoints import checkpoint_of, tiny

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
LEAST_IOU = 0.99


class Pair:
    """The same weights in Meta's code and in ours."""

    def __init__(self, sam, checkpoint):
        self.sam = sam
        self.encoder, self.decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")

    def find(self, image, settings):
        """What both find, each by crop, point and score."""
        from tests.reference.meta import generate

        ours = AutomaticMaskGenerator(self.decoder, self.encoder, AutomaticSettings(**settings)).generate(image)
        return by_origin(generate(self.sam, image, **settings)), by_origin(mask.to_record() for mask in ours)


def by_origin(records):
    return sorted(records, key=lambda record: (record["crop_box"], record["point_coords"], record["predicted_iou"]))


@pytest.fixture(scope="module")
def random():
    from tests.reference.meta import build_sam

    tensors = lively_tensors(tiny())
    return Pair(build_sam(tiny(), tensors), checkpoint_of(tiny(), tensors))


@pytest.fixture(scope="module")
def base():
    from tests.reference.meta import build_sam

    tensors = lively_tensors(vit_b())
    return Pair(build_sam(vit_b(), tensors), checkpoint_of(vit_b(), tensors))


@pytest.fixture(scope="module")
def demo():
    from tests.reference.demo_network import build_demo

    checkpoint = read(DEMO_WEIGHTS)
    return Pair(build_demo(checkpoint.config, dict(checkpoint.tensors)), checkpoint)


def overlap(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def assert_same(theirs, ours, least):
    """As many masks, at least so many, with the same numbers; each matched to each."""
    assert len(ours) == len(theirs) >= least
    for expected, actual in zip(theirs, ours, strict=True):
        assert list(actual) == list(expected)
        assert actual["crop_box"] == expected["crop_box"]
        np.testing.assert_allclose(actual["point_coords"], expected["point_coords"], rtol=1e-12)
        np.testing.assert_allclose(actual["bbox"], expected["bbox"], atol=1)
        assert actual["predicted_iou"] == pytest.approx(expected["predicted_iou"], abs=TOLERANCE)
        assert actual["stability_score"] == pytest.approx(expected["stability_score"], abs=1e-3)
        assert overlap(actual["segmentation"], expected["segmentation"]) >= LEAST_IOU
    for masks, others in ((ours, theirs), (theirs, ours)):
        best = [max(overlap(mask["segmentation"], other["segmentation"]) for other in others) for mask in masks]
        assert min(best) >= LEAST_IOU


LOOSE = {"points_per_side": 5, "pred_iou_thresh": 0.45, "stability_score_thresh": 0.3, "box_nms_thresh": 1.0}


@pytest.mark.parametrize("size", [(150, 220), (211, 130), (128, 128)])
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        (LOOSE, 5),
        ({**LOOSE, "points_per_batch": 7, "stability_score_offset": 0.3, "stability_score_thresh": 0.6}, 5),
        ({**LOOSE, "pred_iou_thresh": 0, "min_mask_region_area": 60}, 5),
        ({**LOOSE, "crop_n_layers": 1, "crop_nms_thresh": 1.0, "crop_overlap_ratio": 0.2}, 5),
        ({**LOOSE, "box_nms_thresh": 0.7}, 1),
    ],
    ids=["plain", "offset", "small regions", "crops", "one box"],
)
def test_a_small_random_network_finds_what_metas_generator_finds(random, settings, least, size):
    assert_same(*random.find(photo(*size), settings), least)


def test_random_vit_b_at_1024_finds_what_metas_generator_finds(base):
    settings = {"points_per_side": 4, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.2, "box_nms_thresh": 1.0}
    assert_same(*base.find(photo(600, 900), settings), 5)


SOFT = {"points_per_side": 10, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.6}
OPEN = {"points_per_side": 20, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.2}


@pytest.mark.parametrize("size", [(360, 480), (500, 300)])
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        (SOFT, 10),
        ({**OPEN, "box_nms_thresh": 0.4, "points_per_batch": 30}, 8),
        ({**SOFT, "min_mask_region_area": 200}, 10),
        ({**SOFT, "points_per_side": 8, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}, 10),
        (
            {
                "points_per_side": None,
                "point_grids": [np.random.default_rng(0).random((40, 2))],
                "pred_iou_thresh": 0.4,
                "stability_score_thresh": 0.5,
                "stability_score_offset": 0.6,
            },
            5,
        ),
    ],
    ids=["plain", "fewer boxes", "small regions", "crops", "own points"],
)
def test_the_demo_model_finds_what_metas_generator_finds_with_its_weights(demo, settings, least, size):
    assert_same(*demo.find(render_scene(3, size).image, settings), least)


@pytest.mark.parametrize("output_mode", ["binary_mask", "uncompressed_rle"])
def test_each_output_mode_gives_metas_segmentation(demo, output_mode):
    theirs, ours = demo.find(
        render_scene(4, (200, 300)).image, {**SOFT, "points_per_side": 6, "output_mode": output_mode}
    )
    assert len(ours) == len(theirs) > 0
    for expected, actual in zip(theirs, ours, strict=True):
        if output_mode == "binary_mask":
            assert actual["segmentation"].dtype == expected["segmentation"].dtype
            assert actual["segmentation"].shape == expected["segmentation"].shape
        else:
            assert actual["segmentation"]["size"] == expected["segmentation"]["size"]
            assert abs(len(actual["segmentation"]["counts"]) - len(expected["segmentation"]["counts"])) <= 4


def test_names_and_defaults_are_metas():
    import inspect
    from dataclasses import fields

    from tests.reference.torchvision_stand_in import torchvision_stand_in

    with torchvision_stand_in():
        from segment_anything import SamAutomaticMaskGenerator
    _, model, *theirs = inspect.signature(SamAutomaticMaskGenerator.__init__).parameters.values()
    assert model.name == "model"
    ours = {field.name: field.default for field in fields(AutomaticSettings)}
    assert list(ours.items())[: len(theirs)] == [(parameter.name, parameter.default) for parameter in theirs]
