"""Everything in a picture: what the filters let through, once each, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from model import SamModel
from model.automatic import AutomaticMaskGenerator, AutomaticSettings, settings_for
from model.errors import CapabilityError
from model.modeling.blas import product
from model.transforms import longest_side_size, mask_and_areas
from model.types import Embedding

LOW, IMAGE_SIZE = 64, 256
SIZE = (120, 160)
EVERYTHING = frozenset({"points", "negative_points", "boxes", "mask_input", "score"})
SURE = 8.0


class Discs:
    """A model of pictures that show discs: a point on one gives the disc, twice more, and half of it.

    A picture holds at each pixel the number of its disc, 0 for the background. The embedding is those numbers, scaled.
    Its answers to one point: the disc, predicted IoU 0.9 and a little more for a larger disc; the disc again, 0.89; all
    that is no disc, 0.5. Near the edge the logits rise as fast as ``slope`` says per low-resolution pixel.
    """

    model_version = "discs@1"

    def __init__(self, capabilities=EVERYTHING, slope=SURE, second=0.89, third=0.5):
        self.capabilities, self.slope, self.second, self.third = capabilities, slope, second, third
        self.encoded, self.batches = [], []

    def encode(self, image):
        self.encoded.append(image.shape[:2])
        height, width = longest_side_size(image.shape[:2], LOW)
        rows = (np.arange(height) * image.shape[0]) // height
        columns = (np.arange(width) * image.shape[1]) // width
        low = np.zeros((1, LOW, LOW), np.float32)
        low[0, :height, :width] = image[rows][:, columns, 0]
        return Embedding(low, image.shape[:2], longest_side_size(image.shape[:2], IMAGE_SIZE), self.model_version)

    def decode_each(self, embedding, prompts, multimask_output, finish):
        assert multimask_output is True
        self.batches.append(len(prompts))
        numbers = embedding.image_embedding[0]
        answers = []
        for index, prompt in enumerate(prompts):
            (x, y), scale = prompt.point_coords[0], LOW / max(embedding.original_size)
            number = numbers[min(int(y * scale), LOW - 1), min(int(x * scale), LOW - 1)]
            disc = np.where(numbers == number, self.slope, -self.slope) if number else np.full((LOW, LOW), -SURE)
            nothing = np.where(numbers == 0, self.slope, -self.slope)
            score = 0.9 + np.count_nonzero(disc > 0) / 1e5
            scores = np.float32([score, self.second, self.third])
            answers.append(finish(index, np.float32([disc, disc, nothing]), scores))
        return answers

    def mask_and_areas(self, logits, embedding, levels):
        sizes = embedding.input_size, embedding.original_size, IMAGE_SIZE
        return mask_and_areas(logits, *sizes, levels, product)


def picture(*discs, size=SIZE):
    """A picture with discs (x, y, radius), numbered from 1."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.zeros((*size, 3), np.uint8)
    for number, (x, y, radius) in enumerate(discs, start=1):
        image[np.hypot(columns - x, rows - y) < radius] = number
    return image


TWO = picture((40, 60, 30), (120, 40, 20))


def find(image=TWO, model=None, **settings):
    model = model or Discs()
    return AutomaticMaskGenerator(model, model, AutomaticSettings(**{"points_per_side": 8, **settings})).generate(image)


def overlap(mask, expected):
    return np.count_nonzero(mask & expected) / np.count_nonzero(mask | expected)


def test_each_object_is_found_once_and_the_best_comes_first():
    masks = find()
    assert len(masks) == 2
    for mask, number in zip(masks, (1, 2), strict=True):
        assert overlap(mask.segmentation, TWO[..., 0] == number) > 0.9
    assert masks[0].predicted_iou > masks[1].predicted_iou > 0.9


def test_a_mask_carries_its_area_its_box_its_point_and_where_it_was_found():
    large, _ = find()
    pixels = large.segmentation
    rows, columns = np.nonzero(pixels)
    assert large.area == np.count_nonzero(pixels)
    x, y, width, height = large.bbox
    assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max(), rows.max())
    [(point_x, point_y)] = large.point_coords
    assert pixels[int(point_y), int(point_x)]
    assert large.crop_box == (0, 0, 160, 120)
    assert large.stability_score == pytest.approx(1, abs=0.1)
    assert large.mask.box == large.rle.box == (x, y, x + width + 1, y + height + 1)


def test_the_record_is_the_dict_of_segment_anything_with_plain_values():
    record = find(output_mode="uncompressed_rle")[0].to_record()
    assert list(record) == [
        "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box",
    ]  # fmt: skip
    assert {type(value) for value in (*record["bbox"], *record["crop_box"], record["area"])} == {int}
    assert {type(value) for value in (*record["point_coords"][0], record["predicted_iou"])} == {float}


def test_the_output_mode_decides_what_a_segmentation_is():
    binary, listed, text = (
        find(output_mode=mode)[0].segmentation for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    assert (binary.shape, binary.dtype) == (SIZE, np.bool_)
    assert listed["size"] == text["size"] == list(SIZE)
    assert sum(listed["counts"]) == binary.size
    assert sum(listed["counts"][1::2]) == np.count_nonzero(binary)
    assert isinstance(text["counts"], str)


def test_masks_of_low_predicted_iou_are_left_out():
    assert len(find(pred_iou_thresh=0.9)) == 2
    assert find(pred_iou_thresh=0.95) == []
    everything = find(pred_iou_thresh=0.4)
    assert overlap(everything[-1].segmentation, TWO[..., 0] == 0) > 0.9
    assert len(find(pred_iou_thresh=0, model=Discs(third=-0.5))) == 3  # off means off, also for what is below zero


def test_masks_whose_edge_depends_on_the_cut_off_are_left_out():
    vague = Discs(slope=1.5)
    assert find(model=vague) == []
    masks = find(model=vague, stability_score_thresh=0.3)
    assert len(masks) == 2
    assert all(0.3 <= mask.stability_score < 0.95 for mask in masks)
    assert len(find(model=vague, stability_score_offset=0.01)) == 2
    assert len(find(model=vague, stability_score_thresh=0)) == 2


def test_an_empty_mask_is_no_result_even_with_all_filters_off():
    assert find(picture(), pred_iou_thresh=0, stability_score_thresh=0, points_per_side=2)[0].area == 120 * 160
    assert len(find(picture(), pred_iou_thresh=0, stability_score_thresh=0, points_per_side=2)) == 1


def test_duplicates_stay_where_the_threshold_lets_them():
    assert len(find(box_nms_thresh=1.0)) > 10


def test_masks_that_are_nearly_the_same_are_duplicates_also_where_their_boxes_differ():
    class Speckled(Discs):
        def decode_each(self, embedding, prompts, multimask_output, finish):
            def later(index, logits, scores):
                logits[1, :2, -2:] = SURE  # the second mask has a speck in the corner
                return finish(index, logits, scores)

            return super().decode_each(embedding, prompts, multimask_output, later)

    assert len(find(model=Speckled())) > 2
    assert len(find(model=Speckled(), mask_nms_thresh=0.99)) > 2
    distinct = find(model=Speckled(), mask_nms_thresh=0.8)
    assert [mask.to_record()["bbox"] for mask in distinct][:2] == [mask.to_record()["bbox"] for mask in find()]


def test_scores_above_one_still_rank():
    class Proud(Discs):
        def decode_each(self, embedding, prompts, multimask_output, finish):
            def later(index, logits, scores):
                return finish(index, logits, scores * np.float32([1.2, 1.3, 1.1]))

            return super().decode_each(embedding, prompts, multimask_output, later)

    masks = find(model=Proud())
    assert [mask.predicted_iou > 1.1 for mask in masks] == [True, True]
    assert [mask.score for mask in masks] == [1.0, 1.0]


def test_points_are_asked_in_batches():
    model = Discs()
    find(model=model, points_per_side=5, points_per_batch=10)
    assert model.batches == [10, 10, 5]


def test_points_of_ones_own_are_asked_in_place_of_a_grid():
    [only] = find(points_per_side=None, point_grids=[np.array([[40 / 160, 60 / 120]])])
    assert only.point_coords == ((40.0, 60.0),)
    assert overlap(only.segmentation, TWO[..., 0] == 1) > 0.9


def test_an_embedding_is_enough():
    model = Discs()
    embedding = model.encode(TWO)
    generator = AutomaticMaskGenerator(model, settings=AutomaticSettings(points_per_side=8))
    masks = generator.generate_from_embedding(embedding)
    assert [mask.to_record()["bbox"] for mask in masks] == [mask.to_record()["bbox"] for mask in find()]


def test_crops_find_what_is_too_small_for_the_whole_picture_and_the_smaller_crop_wins():
    image = picture((250, 300, 130), (1000, 120, 70), size=(600, 1200))
    model = Discs()
    whole, cropped = find(image, points_per_side=12), find(image, model, points_per_side=12, crop_n_layers=1)
    assert len(whole) == 1
    assert model.encoded == [(600, 1200), *[(402, 702)] * 4]
    assert len(cropped) == 2
    small, large = sorted(cropped, key=lambda mask: mask.area)
    assert overlap(small.segmentation, image[..., 0] == 2) > 0.8
    assert small.crop_box == (498, 0, 702, 402)
    assert image[int(small.point_coords[0][1]), int(small.point_coords[0][0]), 0] == 2
    assert overlap(large.segmentation, image[..., 0] == 1) > 0.8


def test_what_a_crop_cuts_off_is_left_to_the_whole_picture():
    image = picture((600, 300, 220), size=(600, 1200))
    [masks] = find(image, crop_n_layers=1, crop_overlap_ratio=0.1)
    assert masks.crop_box == (0, 0, 1200, 600)


def test_small_regions_are_cleaned_up():
    image = picture((40, 60, 30), (120, 40, 20))
    image[55:65, 35:45] = 0
    image[100:108, 140:150] = 1
    marred, clean = find(image), find(image, min_mask_region_area=400)
    assert [len(marred), len(clean)] == [2, 2]
    broken, whole = marred[0].segmentation, next(mask for mask in clean if mask.bbox[0] < 60)
    assert not broken[60, 40]
    assert broken[104, 145]
    assert whole.segmentation[60, 40]
    assert not whole.segmentation[104, 145]
    assert whole.bbox[2] < 70 < marred[0].bbox[2]
    assert clean[0].bbox[0] > 60  # what needed no cleaning comes first, as in segment-anything


def test_the_number_of_masks_can_be_limited_to_the_best():
    image = picture((30, 30, 18), (80, 80, 25), (130, 40, 22))
    assert [mask.bbox[0] < 70 for mask in find(image, points_per_side=16, max_masks=2)] == [True, False]
    best = find(image, points_per_side=16, max_masks=2)
    assert [mask.area for mask in best] == [mask.area for mask in find(image, points_per_side=16)][:2]
    assert len(find(image, points_per_side=16, max_masks=9)) == 3


def test_masks_too_small_or_too_large_for_the_picture_are_left_out():
    share = [mask.area / (SIZE[0] * SIZE[1]) for mask in find()]
    assert len(find(min_area_share=share[1] + 1e-4)) == 1
    assert len(find(max_area_share=share[0] - 1e-4)) == 1
    assert len(find(min_area_share=share[1], max_area_share=share[0])) == 2
    assert find(min_area_share=0.9) == []


def test_a_mask_that_the_clean_up_made_too_small_is_left_out():
    image = picture((40, 60, 30))
    image[100:108, 140:150] = 1
    area = find(image)[0].area
    assert len(find(image, min_area_share=(area - 1) / (120 * 160))) == 1
    assert find(image, min_area_share=(area - 1) / (120 * 160), min_mask_region_area=200) == []


def test_without_a_score_head_the_stable_masks_win_and_no_score_is_made_up():
    masks = find(model=Discs(EVERYTHING - {"score"}))
    assert len(masks) == 3  # nothing but stability says that the background is none
    assert {mask.predicted_iou for mask in masks} == {None}
    assert all(mask.score == mask.stability_score for mask in masks)
    assert [mask.score for mask in masks] == sorted((mask.score for mask in masks), reverse=True)


def test_weights_that_take_no_points_are_refused():
    with pytest.raises(CapabilityError, match="discs@1: expected weights that take points, got boxes, mask input"):
        AutomaticMaskGenerator(Discs(EVERYTHING - {"points", "negative_points"}))


def test_a_generator_without_an_encoder_says_what_it_can_do():
    with pytest.raises(ValueError, match="expected a generator with an encoder; one without has generate_from_emb"):
        AutomaticMaskGenerator(Discs()).generate(TWO)


def test_crops_of_an_embedding_are_refused():
    model = Discs()
    generator = AutomaticMaskGenerator(model, model, AutomaticSettings(crop_n_layers=2))
    with pytest.raises(ValueError, match="crop_n_layers: expected 0 where there is an embedding alone, got 2"):
        generator.generate_from_embedding(model.encode(TWO))


@pytest.mark.parametrize("shape", [(10, 10), (0, 10, 3)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match=r"image: expected uint8 RGB of shape \(H, W, 3\), got uint8 \("):
        find(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (3, 3)])
def test_pictures_of_few_pixels_are_no_problem(size):
    masks = find(picture((0, 0, 999), size=size), crop_n_layers=2, points_per_side=4)
    assert np.logical_or.reduce([mask.segmentation for mask in masks]).all()


def test_a_picture_of_12_megapixels_takes_less_than_a_few_full_size_masks():
    model = Discs()
    embedding = model.encode(picture((2000, 1500, 1400), size=(3000, 4000)))
    generator = AutomaticMaskGenerator(model, settings=AutomaticSettings(points_per_side=4, box_nms_thresh=1.0))
    tracemalloc.start()
    masks = generator.generate_from_embedding(embedding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(masks) > 15
    assert peak < 5 * 3000 * 4000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": None}, "points_per_side and point_grids: expected exactly one of them"),
        ({"point_grids": [[[0.5, 0.5]]]}, "points_per_side and point_grids: expected exactly one of them"),
        ({"points_per_side": 0}, "points_per_side: expected a whole number of at least 1, got 0"),
        ({"points_per_side": 3.5}, "points_per_side: expected a whole number of at least 1, got 3.5"),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "points_per_side: expected a whole number of at least 4, got 3",
        ),
        (
            {"points_per_side": None, "point_grids": [[[0.5, 0.5]]], "crop_n_layers": 1},
            "point_grids: expected one for each of the 2 layers, got 1",
        ),
        (
            {"points_per_side": None, "point_grids": [[[0.5, 1.5]]]},
            r"point_grids: expected points \(N, 2\) from 0 to 1, got \(1, 2\)",
        ),
        (
            {"points_per_side": None, "point_grids": [[0.5]]},
            r"point_grids: expected points \(N, 2\) from 0 to 1, got \(1,\)",
        ),
        ({"points_per_batch": 0}, "points_per_batch: expected a whole number of at least 1, got 0"),
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh: expected a number from 0 to 1, got 1.5"),
        ({"stability_score_thresh": -0.1}, "stability_score_thresh: expected a number from 0 to 1, got -0.1"),
        ({"box_nms_thresh": float("nan")}, "box_nms_thresh: expected a number from 0 to 1, got nan"),
        ({"stability_score_offset": -1}, "stability_score_offset: expected a number of at least 0, got -1"),
        ({"crop_n_layers": -1}, "crop_n_layers: expected a whole number of at least 0, got -1"),
        ({"crop_n_layers": True}, "crop_n_layers: expected a whole number of at least 0, got True"),
        ({"min_mask_region_area": float("inf")}, "min_mask_region_area: expected a number of at least 0, got inf"),
        ({"output_mode": "rle"}, "output_mode: expected one of binary_mask, uncompressed_rle, coco_rle, got 'rle'"),
        ({"max_masks": 0}, "max_masks: expected a whole number of at least 1, got 0"),
        ({"max_area_share": "all"}, "max_area_share: expected a number from 0 to 1, got 'all'"),
        ({"min_area_share": 0.5, "max_area_share": 0.2}, "min_area_share: expected at most max_area_share=0.2, got 0."),
    ],
)
def test_settings_out_of_range_are_refused_with_expected_and_got(settings, message):
    with pytest.raises(ValueError, match=message):
        AutomaticSettings(**settings)


def test_default_thresholds_suit_the_network():
    demo = settings_for("demo", pred_iou_thresh=None, points_per_side=16)
    assert (demo.pred_iou_thresh, demo.stability_score_thresh, demo.points_per_side) == (0.65, 0.8, 16)
    assert settings_for("demo", pred_iou_thresh=0.9).pred_iou_thresh == 0.9
    base = settings_for("vit_b", max_masks=None)
    assert (base.pred_iou_thresh, base.stability_score_thresh, base.max_masks) == (0.88, 0.95, None)
    assert settings_for("vit_b", point_grids=[[[0.5, 0.5]]]).points_per_side is None


def test_a_loaded_model_has_a_generator(tiny_encoder, tiny_decoder, landscape):
    model = SamModel("tiny", tiny_encoder, tiny_decoder)
    assert model.generator().settings.pred_iou_thresh == 0.88
    settings = AutomaticSettings(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, max_masks=1)
    [best] = model.generator(settings).generate(landscape)
    assert best.mask.original_size == landscape.shape[:2]


def test_a_real_network_finds_the_same_from_a_picture_and_from_its_embedding(tiny_encoder, tiny_decoder, landscape):
    settings = AutomaticSettings(
        points_per_side=3, pred_iou_thresh=0.4, stability_score_thresh=0.2, box_nms_thresh=1.0, points_per_batch=4
    )
    generator = AutomaticMaskGenerator(tiny_decoder, tiny_encoder, settings)
    from_picture = generator.generate(landscape)
    from_embedding = generator.generate_from_embedding(tiny_encoder.encode(landscape))
    assert len(from_picture) == len(from_embedding) > 3
    for first, second in zip(from_picture, from_embedding, strict=True):
        np.testing.assert_array_equal(first.segmentation, second.segmentation)
