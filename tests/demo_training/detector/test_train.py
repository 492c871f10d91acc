"""The losses of the demo's detector, and its export. Needs torch."""

from types import SimpleNamespace

import numpy as np
import pytest

from demo_training.detector.words import SHAPES, WORDS

pytestmark = pytest.mark.reference

SURE = 12.0
"""A logit that is as good as certain."""

CELLS = 32 * 32


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def train(torch):
    from demo_training.detector import train

    return train


@pytest.fixture
def batch(torch):
    """Two objects: a square of 100 cells that is red, or orange, and a blue star of one cell."""
    cells = torch.full((1, CELLS), -1)
    cells[0, :100], cells[0, 500], cells[0, 600:700] = 0, 1, -2
    words = torch.zeros(2, len(WORDS))
    for number, true in enumerate((("square", "rectangle", "red"), ("star", "blue"))):
        words[number, [WORDS.index(word) for word in true]] = 1
    words[0, WORDS.index("orange")] = -1
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0], [150.0, 150.0, 158.0, 160.0]])
    return SimpleNamespace(pixels=torch.zeros(1, 3, 256, 256), cells=cells, boxes=boxes, words=words)


@pytest.fixture
def right(torch, batch):
    """What a network answers that is right in everything: sureness, boxes and words of each cell."""
    spoken, numbers = batch.cells[0] >= 0, batch.cells[0].clamp(min=0)
    sure = torch.where(spoken, SURE, -SURE)[None]
    boxes = batch.boxes[numbers][None].clone()
    words = torch.where(batch.words[numbers] > 0, SURE, -SURE)[None]
    return sure, boxes, words


def total(train, batch, answer):
    found = train.losses(lambda pixels: answer, batch)
    return {name: float(value) for name, value in found.items()}


def test_a_network_that_is_right_in_everything_has_nearly_no_loss(train, batch, right):
    found = total(train, batch, right)
    assert all(found[name] < 1e-3 for name in ("sure", "box", "words"))
    assert (found["iou"], found["right"]) == (pytest.approx(1), 1)


@pytest.mark.parametrize(("part", "name"), [(0, "sure"), (1, "box"), (2, "words")])
def test_each_mistake_costs_in_its_own_loss(train, batch, right, part, name):
    wrong = [each.clone() for each in right]
    if name == "box":
        wrong[1][0, 500] += 3.0
    else:
        wrong[part][0, 500] *= -1
    found = total(train, batch, tuple(wrong))
    assert found[name] > 0.02
    assert all(found[other] < 1e-3 for other in {"box", "words"} - {name})


def test_a_box_that_meets_nothing_costs_the_more_the_further_it_is_away(train, batch, right):
    costs = []
    for away in (20.0, 60.0):
        sure, boxes, words = (each.clone() for each in right)
        boxes[0, 500] += away
        costs.append(total(train, batch, (sure, boxes, words))["box"])
    assert 0.5 < costs[0] < costs[1]  # one object of two


def test_each_object_counts_the_same_however_many_cells_it_has(train, batch, right):
    costs = []
    for cells in (slice(0, 100), slice(500, 501)):
        sure, boxes, words = (each.clone() for each in right)
        words[0, cells, WORDS.index("heart")] = SURE
        costs.append(total(train, batch, (sure, boxes, words))["words"])
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)


def test_cells_that_may_say_anything_and_words_that_may_be_true_cost_nothing(train, batch, right):
    sure, boxes, words = (each.clone() for each in right)
    sure[0, 600:700], boxes[0, 600:700] = SURE, 0.0
    words[0, :100, WORDS.index("orange")] = SURE
    found = total(train, batch, (sure, boxes, words))
    assert all(found[name] < 1e-3 for name in ("sure", "box", "words"))


def test_a_cell_is_taught_the_iou_of_its_own_box_as_its_sureness(torch, train, batch, right):
    sure, boxes, words = (each.clone() for each in right)
    boxes[0, :100, 2] = 50.0  # half of the square
    certain = total(train, batch, (sure, boxes, words))["sure"]
    sure[0, :100] = torch.logit(torch.tensor(0.5))
    assert total(train, batch, (sure, boxes, words))["sure"] < 0.01 < certain


def test_right_are_those_whose_likeliest_shape_and_colour_are_true(train, batch, right):
    sure, boxes, words = (each.clone() for each in right)
    words[0, 500, WORDS.index("green")] = 2 * SURE
    assert total(train, batch, (sure, boxes, words))["right"] == pytest.approx(0.5)
    assert len(SHAPES) + 12 == len(WORDS)


def test_overlaps_are_those_of_two_boxes(torch, train):
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3)
    other = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [3.0, 0.0, 5.0, 2.0]])
    iou, giou = train.overlaps(one, other)
    assert iou.tolist() == pytest.approx([1, 1 / 3, 0])
    assert giou.tolist() == pytest.approx([1, 1 / 3, -0.2])


def test_gradients_reach_all_that_learns_and_nothing_that_is_frozen(torch, train, batch):
    torch.manual_seed(0)
    network = train.DetectorNetwork().train()
    found = train.losses(network, batch)
    (found["sure"] + found["box"] + found["words"]).backward()
    frozen = {id(parameter) for part in network.frozen for parameter in part.parameters()}
    for name, parameter in network.named_parameters():
        if id(parameter) in frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    learning = [parameter for name, parameter in network.named_parameters() if id(parameter) not in frozen]
    assert sum(bool(parameter.grad.abs().sum() > 0) for parameter in learning) >= 0.9 * len(learning)
    grouped = [id(parameter) for group in train.groups(network) for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, network.parameters()))


def test_the_exported_detector_finds_what_the_torch_network_finds(torch, train, tmp_path):
    from demo_training.detector.export import export
    from model.detection.load import load_detector

    torch.manual_seed(3)
    network = train.DetectorNetwork().eval()
    with torch.no_grad():
        network.box.bias[0], network.word_bias[:] = 2.0, 1.0
    torch.save({"average": network.state_dict()}, tmp_path / "last.pt")
    export(tmp_path / "last.pt", tmp_path / "exported")
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    with torch.no_grad():
        sure, boxes, words = network(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
    true = torch.sigmoid(words[0])[:, [WORDS.index("red"), WORDS.index("star")]]
    wanted = {
        "star": torch.sigmoid(sure[0]) * true[:, 1],
        "red star": torch.sigmoid(sure[0]) * true[:, 0] * true[:, 1],
        "shape": torch.sigmoid(sure[0]),
    }
    found = load_detector(tmp_path / "exported", "cpu").detect(picture, [*wanted, "zebra"], threshold=0.06)
    assert {each.label for each in found} == wanted.keys()
    for word, scores in wanted.items():
        [best, *_] = sorted((each for each in found if each.label == word), key=lambda each: -each.score)
        assert best.score == pytest.approx(float(scores.max()), abs=0.01)
        near = (boxes[0].clamp(0, 256) - torch.tensor(best.box)).abs().amax(1) < 1.0
        assert (scores[near] - best.score).abs().min() < 0.01
