"""What every cell of the demo's detector is taught: which object it speaks for, its box and its words. Needs torch."""

from types import SimpleNamespace

import numpy as np
import pytest

from demo_training.shapes import OUTLINES

pytestmark = pytest.mark.reference

RED, BLUE = (200, 30, 30), (40, 70, 200)


@pytest.fixture(scope="module")
def targets():
    pytest.importorskip("torch")
    from demo_training.detector import targets

    return targets


def example(size, *objects):
    """A scene of rectangles: of each (rows, columns, colour, outline, the object that it is a part of, or -1)."""
    image, ids = np.full((*size, 3), 150, np.uint8), np.zeros(size, np.uint8)
    parents, outlines = np.full(10, -2, np.int8), np.full(10, -1, np.int8)
    for number, (rows, columns, colour, outline, parent) in enumerate(objects):
        image[slice(*rows), slice(*columns)], ids[slice(*rows), slice(*columns)] = colour, number + 1
        parents[number], outlines[number] = parent, OUTLINES.index(outline)
    used = len(objects)
    return SimpleNamespace(image=image, ids=ids, parents=parents[:used], outlines=outlines[:used])


def batch(targets, *examples):
    waiting = list(examples)
    shards = SimpleNamespace(draw=lambda rng: waiting.pop(0))
    return targets.draw_batch(np.random.default_rng(0), shards, len(examples))


def cells(drawn, row=0):
    side = 32
    return drawn.cells[row].numpy().reshape(side, side)


def test_cells_that_an_object_fills_speak_for_it_those_on_its_edge_for_nothing_all_others_for_background(targets):
    drawn = batch(targets, example((256, 256), ((64, 130), (80, 160), RED, "square", -1)))
    found = cells(drawn)
    assert (found[8:16, 10:20] == 0).all()
    assert (found[16, 10:20] == -2).all()  # two rows of eight
    assert (np.delete(np.delete(found, range(8, 17), 0), range(10, 20), 1) == -1).all()
    assert drawn.boxes.tolist() == [[80, 64, 160, 130]]


def test_every_object_has_a_cell_though_it_fills_none(targets):
    drawn = batch(targets, example((256, 256), ((60, 70), (60, 69), RED, "square", -1)))
    assert (cells(drawn) == 0).sum() == 1
    assert drawn.boxes.tolist() == [[60, 60, 69, 70]]


def test_what_is_too_small_is_no_object(targets):
    drawn = batch(targets, example((256, 256), ((60, 66), (60, 66), RED, "square", -1)))
    assert drawn.boxes.shape == (0, 4)
    assert (drawn.cells < 0).all()


def test_the_box_of_a_thing_holds_its_parts_and_each_speaks_for_itself(targets):
    whole, part = ((64, 192), (64, 128), RED, "square", -1), ((96, 128), (112, 176), BLUE, "ring", 0)
    drawn = batch(targets, example((256, 256), whole, part))
    assert drawn.boxes.tolist() == [[64, 64, 176, 192], [112, 96, 176, 128]]
    found = cells(drawn)
    assert (found[12:16, 14:22] == 1).all()
    assert (found[8:12, 8:16] == 0).all()


def test_words_are_those_of_outline_and_colour(targets):
    from demo_training.detector.words import WORDS

    drawn = batch(targets, example((256, 256), ((64, 128), (64, 128), RED, "square", -1)))
    true = {WORDS[number] for number in np.flatnonzero(drawn.words[0].numpy() == 1)}
    assert true == {"square", "rectangle", "red"}


def test_a_picture_of_another_shape_lies_in_the_middle_of_the_filler(targets):
    from demo_training.detector.network import FILLER

    drawn = batch(targets, example((128, 256), ((64, 96), (80, 160), RED, "square", -1)))
    pixels = drawn.pixels[0].permute(1, 2, 0).numpy()
    assert (pixels[:64] == FILLER).all()
    assert (pixels[192:] == FILLER).all()
    assert (pixels[128, 100] == RED).all()
    assert drawn.boxes.tolist() == [[80, 128, 160, 160]]


def test_objects_are_counted_over_all_pictures(targets):
    one = example((256, 256), ((64, 128), (64, 128), RED, "square", -1))
    two = example((256, 256), ((0, 64), (0, 64), RED, "ring", -1), ((128, 192), (0, 64), BLUE, "star", -1))
    drawn = batch(targets, one, two)
    assert drawn.pixels.shape == (2, 3, 256, 256)
    assert set(drawn.cells[0].unique().tolist()) == {-1, 0}
    assert set(drawn.cells[1].unique().tolist()) == {-1, 1, 2}
    assert len(drawn.boxes) == len(drawn.words) == 3
