"""``preannotate --from labels`` and ``--from text`` as commands: what they store, refuse, and leave when killed."""

import time

import numpy as np
import pytest

from backend.protocol import rle
from demo_training.detector.words import SHAPES, shape_names
from demo_training.evaluate import FAMILIES
from model.demo import DETECTOR
from tests.support import detector_directories as directories
from tests.support.fake_project import PROJECT, FakeProject
from tests.support.fake_project_server import FakeProjectServer
from tests.support.processes import commands
from tests.support.scenes import iou, scene_file
from tests.support.wire_bodies import CONFIG

RUN_S = 240
LEAST_IOU, LEAST_RIGHT, LEAST_FOUND = 0.8, 0.7, 0.25


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """An untrained detector that knows Cat and Dog, among others."""
    folder = tmp_path_factory.mktemp("detectors") / "PicoDet-S_infer"
    return str(directories.write_closed(folder, "PicoDet-S", ["Dog", "walking man", "Cat"]))


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """An untrained detector that takes any words."""
    return str(directories.write_grounding_dino(tmp_path_factory.mktemp("detectors") / "GroundingDINO-T_infer"))


@pytest.fixture
def server():
    with FakeProjectServer(FakeProject(CONFIG)) as server:
        yield server


@pytest.fixture
def call(call):
    """Run ``preannotate`` in this process."""
    return lambda *arguments, **changes: call("preannotate", "--project", str(PROJECT), *arguments, **changes)


def fill(server, count):
    return [server.upload(f"{number:04}.png", scene_file(5000 + number).data) for number in range(count)]


def labels(prediction):
    return {label for region in prediction.result for label in region["value"]["brushlabels"]}


def test_the_labels_of_the_config_find_their_objects_once(call, server, detector):
    tasks = fill(server, 2)
    result = call("--from", "labels", "--detector", detector, "--max-masks", "3")
    assert result.exit_code == 0, result.output
    for task in tasks:
        [prediction] = server.project.of(task)
        assert 1 <= len(prediction.result) <= 3
        assert labels(prediction) <= {"Cat", "Dog"}
        assert all(region["score"] > 0.5 for region in prediction.result)
    second = call("--from", "labels", "--detector", detector)
    assert "there already      2" in second.stdout
    assert len(server.project.stored) == 2


def test_what_a_detector_finds_gets_the_right_label_and_a_mask_that_fits(call, server, tmp_path):
    finder = directories.write_colour_finder(tmp_path / "colours", ["red disc", "nothing", "dog"])
    pictures = [directories.coloured_discs(number) for number in range(6)]
    tasks = [server.upload(f"{number}.png", directories.png(image)) for number, (image, _) in enumerate(pictures)]
    text = "red disc=Cat, dog"
    result = call("--from", "text", text, "--detector", str(finder), PADDLE_SAM_WEIGHTS="demo")
    assert result.exit_code == 0, result.output
    fits = []
    for task, (_, masks) in zip(tasks, pictures, strict=True):
        wanted = {name: masks[colour] for colour, name in (("red", "Cat"), ("blue", "Dog")) if colour in masks}
        regions = [region for stored in server.project.of(task) for region in stored.result]
        assert sorted(region["value"]["brushlabels"][0] for region in regions) == sorted(wanted)
        assert {region["score"] for region in regions} <= {0.75}
        for region in regions:
            mask = rle.decode(bytes(region["value"]["rle"]), (300, 400)).to_array()
            fits.append(iou(mask, wanted[region["value"]["brushlabels"][0]]))
    assert len(fits) > 3
    assert np.mean(fits) > 0.85


def test_words_of_a_text_get_the_labels_that_they_are_mapped_to(call, server, dino):
    [task] = fill(server, 1)
    text = "walking man=Cat, bus=dog"
    result = call("--from", "text", text, "--max-masks", "4", PADDLE_SAM_DETECTOR=dino)
    assert result.exit_code == 0, result.output
    [prediction] = server.project.of(task)
    assert labels(prediction) <= {"Cat", "Dog"}
    assert prediction.result


def test_a_dry_run_draws_what_the_words_find(call, server, detector, tmp_path):
    [task] = fill(server, 1)
    result = call("--from", "labels", "--detector", detector, "--max-masks", "2", "--dry-run", str(tmp_path / "shown"))
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "shown").iterdir()] == [f"task-{task}.jpg"]
    assert not server.project.stored


def test_images_without_such_an_object_get_no_prediction_and_are_no_failure(call, server, detector):
    fill(server, 1)
    result = call("--from", "labels", "--detector", detector, "--min-score", "1")
    assert result.exit_code == 0, result.output
    assert "nothing marked     1" in result.stdout
    assert not server.project.stored


def test_labels_that_the_detector_has_no_class_for_are_named_and_left_out(call, server, tmp_path):
    fill(server, 1)
    only = directories.write_closed(tmp_path / "PicoDet-S_infer", "PicoDet-S", ["cat"])
    result = call("--from", "labels", "--detector", str(only), "--max-masks", "2")
    assert result.exit_code == 0, result.output
    assert "the detector has no class for Dog: left out" in result.stderr
    assert labels(next(iter(server.project.stored.values()))) == {"Cat"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "labels"], "expected --detector or PADDLE_SAM_DETECTOR: GroundingDINO-T, YOLO-Worldv2-L"),
        (["--from", "labels", "--from", "boxes", "--detector", "x"], "--from labels takes no prompts"),
        (["--from", "text", "--detector", "x"], 'expected --from text "WORDS", with both or neither of them'),
        (["--from", "labels", "cat", "--detector", "x"], 'expected --from text "WORDS", with both or neither of them'),
        (["--from", "boxes", "--detector", "x"], "--detector: expected --from labels or --from text beside it"),
        (["--from", "labels", "--detector", "x", "--min-area", "1"], "--min-area: expected --from everything"),
        (["--from", "boxes", "--min-score", "0.5"], "--min-score: expected --from everything, labels or text"),
        (
            ["--from", "labels", "--detector", "x"],
            "x: expected one of GroundingDINO-T, YOLO-Worldv2-L, YOLO-World-demo, or",
        ),
        (["--from", "text", "tram", "--detector", "x"], "'tram': expected one of the config's labels, Cat, Dog"),
    ],
)
def test_what_cannot_be_begun_ends_with_2_and_says_why(call, server, arguments, words):
    fill(server, 1)
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not server.project.stored


def config_with(labels):
    tags = "".join(f'<Label value="{label}"/>' for label in labels)
    brush = f'<BrushLabels name="brush" toName="image">{tags}</BrushLabels>'
    return f'<View><Image name="image" value="$image"/>{brush}</View>'


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            ["Cat", "cat"],
            "labels 'Cat' and 'cat': expected a word for each, got 'cat' for both; give one of them another",
        ),
        (["Cat", "鸟"], "'鸟': expected a word of the detector's vocabulary (English)"),
        ([" "], "expected labels in the labeling config, got none"),
        ([f"thing {number}" for number in range(1001)], "words: expected at most 1,000 of at most 1,000 characters"),
    ],
)
def test_labels_that_cannot_be_looked_for_end_the_run_before_any_task(call, server, dino, labels, words):
    server.project.configure(config_with(labels))
    fill(server, 1)
    result = call("--from", "labels", "--detector", dino)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not server.project.stored


def test_several_hundred_labels_are_looked_for(call, server, dino):
    wanted = [f"thing {number}" for number in range(300)]
    server.project.configure(config_with(wanted))
    [task] = fill(server, 1)
    result = call("--from", "labels", "--detector", dino, "--max-masks", "2")
    assert result.exit_code == 0, result.output
    [prediction] = server.project.of(task)
    assert labels(prediction) <= set(wanted)
    assert prediction.result


def test_a_program_that_does_more_than_compute_is_refused_before_any_task(call, server, detector, tmp_path):
    fill(server, 1)
    hostile = directories.write_closed(tmp_path / "PicoDet-S_infer", "PicoDet-S", ["Cat"])
    program = (hostile / "inference.json").read_text()
    (hostile / "inference.json").write_text(program.replace('"1.sigmoid"', '"1.save_combine"'))
    result = call("--from", "labels", "--detector", str(hostile))
    assert result.exit_code == 2
    assert "expected a program that only computes, got the operators 1.save_combine" in result.stderr
    assert not server.project.stored


@pytest.mark.slow
def test_the_demos_detector_and_model_label_the_objects_of_40_scenes_that_they_never_saw(call, server):
    server.project.configure(config_with(SHAPES))
    files = [scene_file(40_000 + number, family=FAMILIES[number % 2]) for number in range(40)]
    tasks = [server.upload(f"{number:02}.png", file.data) for number, file in enumerate(files)]
    result = call("--from", "labels", "--detector", DETECTOR, PADDLE_SAM_WEIGHTS="demo")
    assert result.exit_code == 0, result.output
    fits, right, marked, objects = [], [], set(), 0
    for task, file in zip(tasks, files, strict=True):
        objects += len(file.scene.kinds)
        for region in [region for stored in server.project.of(task) for region in stored.result]:
            mask = rle.decode(bytes(region["value"]["rle"]), file.scene.ids.shape).to_array()
            ious = [iou(mask, wanted) for wanted in file.scene.masks]
            best = int(np.argmax(ious))
            if ious[best] < 0.5:
                continue
            fits.append(ious[best])
            right.append(region["value"]["brushlabels"][0] in shape_names(file.scene.outlines[best]))
            marked |= {(task, best)} if right[-1] else set()
    print(f"{len(fits)} masks, IoU {np.mean(fits):.3f}, label {np.mean(right):.3f}, found {len(marked) / objects:.3f}")
    assert np.mean(fits) >= LEAST_IOU
    assert np.mean(right) >= LEAST_RIGHT
    assert len(marked) >= LEAST_FOUND * objects


@pytest.mark.slow
def test_a_killed_run_over_40_scenes_is_taken_up_where_it_was_left(settings, server, detector):
    tasks = fill(server, 40)
    arguments = (
        "preannotate",
        "--project",
        str(PROJECT),
        "--from",
        "labels",
        "--detector",
        detector,
        "--max-masks",
        "3",
    )
    with commands(**settings) as start:
        process = start(*arguments)
        until = time.monotonic() + RUN_S
        while len(server.project.stored) < 8:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.kill()
        process.communicate()
        stored = len(server.project.stored)
        assert 8 <= stored < 40
        process = start(*arguments)
        out, err = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, err
    assert [len(server.project.of(task)) for task in tasks] == [1] * 40
    assert f"there already      {stored}" in out
