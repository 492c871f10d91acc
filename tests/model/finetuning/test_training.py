"""A decoder learns from masks in steps that can be repeated, stopped and resumed, whatever its network."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from model.coco import rle
from model.finetuning import prompting
from model.finetuning.examples import TrainingImage, TrainingObject, split
from model.finetuning.judging import Judgement, Scores
from model.finetuning.training import Result, Training, TrainingOptions
from model.types import Embedding, Mask
from model.weights.decoder_weights import own_tensors
from tests.support.checkpoints import random_checkpoint
from tests.support.families import FAMILIES

PHOTO = (60, 80)
OPTIONS = TrainingOptions(epochs=2, images=2)
SHORT = TrainingOptions(epochs=1, images=2, rate=1e-4)
EAGER = TrainingOptions(epochs=3, images=2, rate=1e-3, mix=1.0)
"""Learns something in three seconds, with the demo model."""
BASE = random_checkpoint()


def disc(x, y, radius):
    rows, columns = np.mgrid[: PHOTO[0], : PHOTO[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def images(base=BASE, count=5, objects=2):
    """Images with random embeddings, each with two discs or one."""
    config = base.config
    side = config.image_size
    size = (side * 3 // 4, side) if config.keeps_shape else (side, side)
    images_made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        main, *further = [
            (name, rng.normal(0, 1, shape).astype(np.float32)) for name, shape in config.embedding_shapes.items()
        ]
        embedding = Embedding(
            main[1], PHOTO, size, base.encoder_version, family=config.family, further_maps=dict(further)
        )
        masks = [disc(20, 15 + number, 10), disc(55, 30, 12 + number)]
        drawn = tuple(
            TrainingObject.of(label, rle.encode(Mask.from_array(mask)), size, config)
            for label, mask in zip(("a", "b"), masks, strict=True)
        )
        images_made.append(TrainingImage(str(number), lambda embedding=embedding: embedding, drawn[:objects]))
    return images_made


def train(base=BASE, options=OPTIONS, state_file=None, stop_at=None, count=5, objects=2, steps=None):
    stop = threading.Event()

    def on_progress(progress):
        if steps is not None:
            steps.append(progress.step)
        if progress.step == stop_at:
            stop.set()

    return Training(base, images(base, count, objects), options, state_file, "cpu").run(stop, on_progress)


def differing(first, second):
    return [name for name in first if not np.array_equal(first[name], second[name])]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoders_of_every_family_learn(family, tmp_path):
    base = FAMILIES[family]()
    before = {name: value.copy() for name, value in own_tensors(base).items()}
    result = train(base, SHORT, tmp_path / "state", count=2, objects=1)
    assert result.ended == "complete"
    assert set(result.tensors) == set(before)
    assert differing(before, own_tensors(base)) == []
    assert set(Scores.of(result.after).ious) == {"click", "box", "corrected"}
    learned = values_of(tmp_path / "state")
    assert len(differing(learned, before)) > len(learned) / 2
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" not in learned


def values_of(state_file):
    """The parameters in training that a state holds."""
    groups = [(name.partition(":"), value) for name, value in safetensors.numpy.load_file(state_file).items()]
    return {name: value for (group, _, name), value in groups if group == "values"}


@pytest.mark.parametrize(
    ("without", "kinds"),
    [
        (("score", "mask_input"), {"click", "box", "corrected"}),
        (("points", "negative_points", "score", "mask_input"), {"box"}),
        (("boxes", "negative_points", "mask_input"), {"click", "corrected"}),
    ],
)
def test_pruned_weights_learn_from_the_prompts_that_they_take(without, kinds):
    result = train(random_checkpoint(without=without), SHORT, count=2, objects=1)
    assert set(Scores.of(result.before).ious) == kinds


@pytest.fixture(scope="module")
def demo():
    return FAMILIES["demo"]()


@pytest.fixture(scope="module")
def whole(demo):
    """A training from its beginning to its end."""
    return train(demo, EAGER)


@pytest.mark.slow
def test_the_masks_get_better(demo, whole):
    assert whole.ended == "complete"
    assert differing(whole.tensors, own_tensors(demo))
    assert Scores.of(whole.after).mean > Scores.of(whole.before).mean + 0.02


@pytest.mark.slow
def test_a_training_gives_the_same_numbers_again_and_others_with_another_seed(demo, whole):
    assert differing(whole.tensors, train(demo, EAGER).tensors) == []
    assert differing(whole.tensors, train(demo, replace(EAGER, seed=1)).tensors)


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_with_the_numbers_of_one_that_was_not(demo, whole, tmp_path):
    stopped = train(demo, EAGER, tmp_path / "state", stop_at=3)
    assert stopped.ended == "stopped"
    steps = []
    resumed = train(demo, EAGER, tmp_path / "state", steps=steps)
    assert steps[0] == 4
    assert differing(whole.tensors, resumed.tensors) == []
    assert Scores.of(resumed.after).ious == Scores.of(whole.after).ious


def test_the_state_of_another_training_or_a_damaged_one_is_not_taken_up(tmp_path):
    file = tmp_path / "state"

    def first_step(options, stop_at):
        steps = []
        train(options=options, state_file=file, count=2, objects=1, stop_at=stop_at, steps=steps)
        return steps[0]

    other_options = replace(OPTIONS, seed=5)
    assert (first_step(OPTIONS, 1), first_step(other_options, 1)) == (1, 1)
    assert first_step(other_options, 2) == 2
    file.write_bytes(file.read_bytes()[:-100])
    assert first_step(other_options, 1) == 1


def test_a_training_that_is_stopped_at_once_returns_the_base():
    stop = threading.Event()
    stop.set()
    result = Training(BASE, images(count=2, objects=1), OPTIONS, None, "cpu").run(stop)
    assert (result.ended, result.is_better) == ("stopped", False)
    assert differing(result.tensors, own_tensors(BASE)) == []


def test_a_fifth_of_the_images_is_kept_aside_whatever_their_order():
    learned, aside = split(images(count=20), 0)
    assert (len(learned), len(aside)) == (16, 4)
    repeated = split(images(count=20)[::-1], 0)
    assert [image.key for image in aside] == [image.key for image in repeated[1]]
    assert {image.key for image in split(images(count=20), 1)[1]} != {image.key for image in aside}


def test_copies_of_an_image_are_kept_aside_together():
    copies = images(count=4) * 3
    learned, aside = split(copies, 0)
    assert not {image.key for image in learned} & {image.key for image in aside}


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="expected at least 2 different ones, got 1"):
        Training(BASE, images(count=1), OPTIONS, None, "cpu")


@pytest.mark.parametrize(
    ("after", "is_better"),
    [
        ({"click": 0.7, "box": 0.8}, False),
        ({"click": 0.704, "box": 0.804}, False),
        ({"click": 0.71, "box": 0.81}, True),
        ({"click": 0.9, "box": 0.795}, True),
        ({"click": 0.9, "box": 0.78}, False),
    ],
)
def test_better_is_what_gains_on_the_whole_and_loses_nowhere(after, is_better):
    [image] = images(count=1)
    before = [Judgement(image, 0, {"click": 0.7, "box": 0.8}, {})]
    assert Result({}, before, [Judgement(image, 0, after, {})], 1, "complete").is_better is is_better


def test_prompts_lie_where_they_should():
    [image] = images(count=1)
    embedding, rng = image.load(), np.random.default_rng(0)
    wanted = rle.decode(image.objects[0].rle).to_array()
    cover = image.objects[0].cover()
    hits = []
    for _ in range(50):
        x, y, label = prompting.first_click(rng, cover, embedding)
        hits.append(wanted[round(y), round(x)])
        assert label == 1
        x, y, label = prompting.corrective_click(rng, cover, np.full_like(cover, -1), embedding)
        assert label == 1
        x, y, label = prompting.corrective_click(rng, cover, np.full_like(cover, 1), embedding)
        assert label == 0
        hits.append(not wanted[round(y), round(x)])
        left, top, right, bottom = prompting.jittered_box(rng, image.objects[0].rle)
        assert 0 <= left <= right <= PHOTO[1]
        assert 0 <= top <= bottom <= PHOTO[0]
    assert np.mean(hits) > 0.9
