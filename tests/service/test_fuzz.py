"""Random contexts, labeling configs and tasks through the whole application: never a 5xx, never a malformed answer."""

import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import ImageError, Reason
from model.errors import CapabilityError
from model.types import Mask
from tests.support.fakes import png
from tests.support.service import SIZE_WH, VERSION, FakeDecoder, Service
from tests.support.wire_bodies import BODIES, CONFIG, CONTEXTS, JUNK, LABELS, NAMES, PERCENT, RESULTS, TYPES, encoded
from tests.support.wire_reader import checked

DEFAULT, MANY, SAME = 1_500, 100_000, 900
"""Examples of a click that are tried: by default, where there is time, and the same ones every time."""


class MoodyDecoder(FakeDecoder):
    """Answers with every kind of mask and fails now and then; the same prompt always gets the same."""

    def decode(self, embedding, prompts, multimask_output=None):
        self.calls.clear()
        moods = [mood_of(prompt) for prompt in prompts]
        self.score = (0.0, 1.0, 0.123456789, None)[moods[0] % 4]
        if moods[0] % 29 == 0:
            raise CapabilityError("cannot take that")
        if moods[0] % 31 == 0:
            raise RuntimeError("a slip")
        return super().decode(embedding, prompts)

    def mask(self, prompt, size):
        mood = mood_of(prompt)
        height, width = size
        rng = np.random.default_rng(mood)
        match mood % 7:
            case 0:
                return Mask.from_array(np.zeros(size, bool))
            case 1:
                return Mask.from_array(np.ones(size, bool))
            case 2:
                return Mask(np.ones((1, 1), bool), (mood % width, mood % height), size)
            case 3:
                return Mask.from_array(rng.random(size) < 0.5)
            case 4:
                ring = np.ones(size, bool)
                ring[height // 4 : -height // 4 or None, width // 4 : -width // 4 or None] = False
                return Mask.from_array(ring)
        return super().mask(prompt, size)


def mood_of(prompt):
    """The same number for the same prompt."""
    parts = (prompt.point_coords, prompt.box, prompt.rough_mask)
    seed = b"".join(part.tobytes() for part in parts if part is not None)
    return int.from_bytes(hashlib.sha256(seed).digest()[:4], "big")


@pytest.fixture(scope="module")
def service():
    with Service(decoder=MoodyDecoder()) as service:
        service.source.contents = {
            "a.png": png((1, 2, 3), SIZE_WH),
            "b.png": png((4, 5, 6), (40, 40)),
            "broken.png": b"no image",
            "denied.png": ImageError("no", Reason.IMAGE_TOO_LARGE),
        }
        yield service


# Requests that mean something, more or less, so that most of them reach the decoder.


def mostly(good, odd):
    """One in ten is odd; ``one_of`` would take every alternative of ``odd`` for as likely as ``good``."""
    return st.integers(0, 9).flatmap(lambda roll: odd if roll == 0 else good)


URIS = st.sampled_from(
    [
        "a.png",
        "a.png",
        "a.png",
        "a.png",
        "a.png",
        "a.png",
        "b.png",
        "broken.png",
        "denied.png",
        "missing.png",
        "",
        " a.png ",
    ]
)
FULL = st.fixed_dictionaries({"image": URIS, "pages": st.lists(URIS, min_size=1, max_size=3), "x": URIS})
DATA = mostly(
    FULL,
    st.one_of(
        st.fixed_dictionaries({"pages": st.lists(st.fixed_dictionaries({"image": URIS}), max_size=3)}),
        st.dictionaries(st.sampled_from(["image", "pages", "x"]), st.one_of(URIS, JUNK), max_size=3),
        JUNK,
    ),
)
WORDS = st.sampled_from(["Cat", "Dog", "dog", "<&>", "", "Ünï"])
DRAWING = st.sampled_from(
    [tag + suffix for tag in ("Brush", "Bitmask", "Polygon", "Rectangle", "Ellipse", "Vector", "KeyPoint")
     for suffix in ("", "Labels")] + ["Labels", "MagicWand", "Choices", "TextArea"]
)  # fmt: skip


def _escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


@st.composite
def control(draw, images=("image", "other", "img-{{idx}}")):
    name, to_name = (
        draw(st.sampled_from("abcdefgh")),
        ",".join(draw(mostly(st.just(["image"]), st.lists(st.sampled_from(images), max_size=2)))),
    )
    extra = draw(st.sampled_from(["", ' smart="true"', ' smart="false"', ' model_output="false"', ' value="$x"']))
    labels = "".join(f'<Label value="{_escaped(word)}"/>' for word in draw(st.lists(WORDS, max_size=3)))
    tag = draw(DRAWING)
    return f'<{tag} name="{name}" toName="{to_name}"{extra}>{labels}</{tag}>'


@st.composite
def config(draw):
    image = draw(
        st.sampled_from(
            [
                '<Image name="image" value="$image"/>',
                '<Image name="image" valueList="$pages"/>',
                '<Image name="image" value="$image"/><Image name="other" value="$x"/>',
                '<Repeater on="$pages"><Image name="img-{{idx}}" value="$pages[{{idx}}].image"/></Repeater>',
                "",
            ]
        )
    )
    return f"<View>{image}{''.join(draw(st.lists(control(), max_size=4)))}</View>"


@st.composite
def plain_config(draw):
    """What an administrator would write: an image and one kind of output."""
    labels = "".join(f'<Label value="{_escaped(word)}"/>' for word in draw(st.lists(WORDS, min_size=1, max_size=3)))
    tag = draw(st.sampled_from(["Brush", "Bitmask", "Polygon", "Rectangle", "Ellipse", "Vector"]))
    image = draw(st.sampled_from(['value="$image"', 'value="$image"', 'valueList="$pages"']))
    if draw(st.booleans()):
        tags = f'<{tag} name="out" toName="image"/><Labels name="labels" toName="image">{labels}</Labels>'
    else:
        tags = f'<{tag}Labels name="out" toName="image">{labels}</{tag}Labels>'
    return f'<View><Image name="image" {image}/>{tags}</View>'


CONFIGS = mostly(mostly(plain_config(), st.just(CONFIG)), mostly(config(), st.one_of(st.text(max_size=20), JUNK)))
NUMBERS = mostly(st.floats(0, 100), mostly(st.floats(-20, 120), PERCENT))
SUFFIX = st.sampled_from(["labels", ""])
SIZES = mostly(st.just(SIZE_WH), st.sampled_from([(40, 40), (160, 120), (60, 80), (1, 1), (None, None), (0, -3)]))


NUMBERS_OF = {
    "keypoint": ("x", "y"),
    "rectangle": ("x", "y", "width", "height"),
    "ellipse": ("x", "y", "radiusX", "radiusY"),
    "polygon": (),
}
"""What positions a shape of each kind; one in ten has the numbers of the others, too, as more draws take most time."""
ALL_NUMBERS = ("x", "y", "width", "height", "radiusX", "radiusY")
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6)


@st.composite
def mark(draw):
    width, height = draw(SIZES)
    kind, has_all = draw(st.sampled_from(list(NUMBERS_OF))), draw(st.integers(0, 9)) == 0
    value = {name: draw(NUMBERS) for name in (ALL_NUMBERS if has_all else NUMBERS_OF[kind])}
    if (kind in ("rectangle", "ellipse") and draw(st.booleans())) or has_all:
        value["rotation"] = draw(NUMBERS)
    if kind == "polygon" or has_all:
        value["points"] = draw(POINTS)
    value["keypointlabels"] = value["rectanglelabels"] = draw(LABELS)
    return {
        "original_width": width,
        "original_height": height,
        "image_rotation": draw(st.sampled_from([0, 0, 90, 180, 270, -90, 45, None])),
        "value": value,
        "id": draw(st.sampled_from(["one", "two", "three", "four"])),
        "from_name": draw(NAMES),
        "to_name": draw(mostly(st.just("image"), st.sampled_from(["other", "img-0", "img-7", ""]))),
        "type": kind + draw(SUFFIX),
        **({"is_positive": draw(st.booleans())} if draw(st.booleans()) else {}),
        **({"item_index": draw(st.integers(-1, 3))} if draw(st.integers(0, 3)) == 0 else {}),
    }  # fmt: skip


REQUESTS = st.fixed_dictionaries(
    {
        "tasks": st.lists(st.fixed_dictionaries({"id": st.integers(1, 99), "data": DATA}), min_size=1, max_size=2),
        "project": st.sampled_from(["1.5", "2.5", None]),
        "label_config": CONFIGS,
        "params": st.fixed_dictionaries(
            {
                "context": mostly(
                    st.fixed_dictionaries({"result": st.lists(mostly(mark(), RESULTS), min_size=1, max_size=4)}),
                    CONTEXTS,
                )
            }
        ),
    }
)


def ask(service, body):
    service.clock.advance(0.1)  # answers of one moment could not be told apart where a click corrects the last one
    response = service.client.post("/predict", data=encoded(body))
    items = checked(body, response, VERSION)
    repeated = service.client.post("/predict", data=encoded(body))
    assert repeated.data == response.data, "the same request, another answer"
    return items


def check_requests(service, body):
    items = ask(service, body)
    assert service.metrics.recent()[0].reasons or any(item and item["result"] for item in items) or not items
    return items


given_requests = given(body=REQUESTS)
quick = settings(max_examples=DEFAULT, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given_requests
def test_any_click_gets_a_well_formed_answer_and_a_reason_where_it_is_empty(service, body):
    check_requests(service, body)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@thorough
@given_requests
def test_a_hundred_thousand_clicks_get_well_formed_answers(service, body):
    check_requests(service, body)


@given(body=BODIES)
@settings(max_examples=DEFAULT // 2, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_body_gets_a_well_formed_answer(service, body):
    assert all(item == [] or item["model_version"] == VERSION for item in ask(service, body))


@given(body=st.one_of(st.binary(max_size=60), BODIES.map(encoded).flatmap(
    lambda text: st.tuples(st.integers(0, max(0, len(text) - 1)), st.binary(max_size=2)).map(
        lambda change: text[: change[0]] + change[1] + text[change[0] + 1 :]))))  # fmt: skip
@settings(max_examples=DEFAULT // 4, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_answered_or_refused_in_one_line(service, body):
    for path in ("/predict", "/setup", "/webhook"):
        response = service.client.post(path, data=body)
        assert response.status_code in (200, 400), response.data
        if response.status_code == 400:
            assert list(response.json) == ["error"]
            assert "\n" not in response.json["error"]


@given(xml=CONFIGS.filter(lambda value: isinstance(value, str)), kind=TYPES)
@settings(max_examples=DEFAULT // 4, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_config_is_taken_at_setup(service, xml, kind):
    assert service.client.post("/setup", data=encoded({"project": kind, "schema": xml})).status_code == 200


def test_the_same_clicks_get_well_formed_answers_and_reach_what_they_are_meant_to(service):
    """Of made-up clicks many get regions, of every kind; else the tests above would prove little."""
    kinds, reasons = set(), set()

    @given_requests
    @settings(quick, max_examples=SAME, database=None, derandomize=True)
    def collect(body):
        entries = [entry for item in check_requests(service, body) if item for entry in item["result"]]
        kinds.update(entry["type"].removesuffix("labels") for entry in entries)
        reasons.update(map(str, service.metrics.recent()[0].reasons))

    collect()
    assert kinds >= {"brush", "bitmask", "polygon", "rectangle", "ellipse"}
    assert len(reasons) >= 12, reasons
