"""Everything that decodes works with SAM 2.1: the commands, segment everything, PaddleX's surface, the benchmark."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from model import load
from model.automatic import AutomaticSettings
from model.cli import main
from model.weights import read
from model.weights.export import export
from tests.reference.random_weights import photo
from tests.reference.sam2_weights import lively_sam2
from tests.support.checkpoints import checkpoint_of
from tests.support.sam2_files import tiny_sam2

SIZE = (90, 140)
LOOSE = AutomaticSettings(points_per_side=3, pred_iou_thresh=0.0, stability_score_thresh=0.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "sam2"
    return export(checkpoint_of(tiny_sam2(), lively_sam2(tiny_sam2())), folder, "native")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.fromarray(photo(*SIZE)).save(path)
    return path


@pytest.fixture(scope="module")
def model(weights):
    return load(read(weights), device="cpu")


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_paddlexs_predict_answers_boxes_and_points(model, picture):
    (boxes,) = model.predict(str(picture), prompts={"box_prompt": [[10, 10, 60, 60], [5, 5, 130, 80]]})
    assert [mask.shape for mask in boxes["masks"]] == [SIZE, SIZE]
    (points,) = model.predict(photo(*SIZE)[..., ::-1], prompts={"point_prompt": [[70, 45]]})
    assert points["masks"][0].shape == SIZE


def test_everything_in_a_photo_is_found_with_boxes_that_hold_it(model):
    masks = model.generator(LOOSE).generate(photo(*SIZE))
    assert masks
    for mask in masks:
        rows, columns = np.nonzero(mask.segmentation)
        x, y, width, height = mask.bbox
        assert mask.segmentation.shape == SIZE
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) in {
            (columns.max() + 1, rows.max() + 1),
            (columns.max(), rows.max()),
        }


def test_segment_writes_the_masks_of_a_box(weights, picture, tmp_path):
    run("segment", picture, "--weights", weights, "--box", "10,10,60,70", "--out", tmp_path)
    record = json.loads((tmp_path / "a_res.json").read_text())
    assert record["model_version"].startswith("sam2@")
    assert np.asarray(Image.open(tmp_path / record["masks"][0])).shape == SIZE


def test_segment_everything_writes_masks(weights, picture, tmp_path):
    loose = ("--points-per-side", 2, "--pred-iou-thresh", 0, "--stability-score-thresh", 0)
    run("segment", picture, "--weights", weights, "--everything", *loose, "--out", tmp_path)
    assert json.loads((tmp_path / "a_res.json").read_text())["masks"]


def test_inspect_shows_every_map_of_the_embedding(weights):
    result = run("inspect", weights)
    assert "hiera: embed_dim 16" in result
    assert "32 × 8 × 8, 4 × 32 × 32, 8 × 16 × 16" in result


def test_export_for_paddlex_is_refused_on_the_command_line_too(weights, tmp_path):
    result = CliRunner().invoke(main, ["export", str(tmp_path / "x"), "--format", "paddlex", "--weights", str(weights)])
    assert result.exit_code != 0
    assert "tiny_sam2, which PaddleX does not know" in result.output


@pytest.mark.slow
def test_the_benchmark_measures_it(weights):
    assert "first prompt of a photo" in run("benchmark", "--weights", weights)
