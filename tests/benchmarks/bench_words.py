"""What words cost: masks of typed words beside detector and decoder, and the text side of many images with one text.

The service is called in this process as in `tests.benchmarks.bench_click`, with the demo's detector and model. Each
request looks for the same words in another order, so that no boxes are cached, on an image whose embedding is there.
"""

import io
import itertools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from werkzeug.test import EnvironBuilder

from backend.composition import parts, web
from backend.images import decode
from backend.images.decode import PixelLimits
from backend.settings import read
from model.build import load_decoder
from model.demo import DETECTOR, DETECTOR_FOLDER
from model.detection import directory
from model.detection.detector import Detector
from model.detection.engine import Engine
from model.detection.load import load_detector
from model.paddlex.word_segmentation import select
from model.types import Prompt
from tests.benchmarks.rows import Row, compare
from tests.support import detector_directories as directories
from tests.support.fakes import HttpServer, Reply
from tests.support.scenes import scene_file
from tests.support.wire_bodies import WORDS_CONFIG, click, encoded, words

SIZE, SEED = (600, 800), 9008
LOOKED_FOR = ("shape", "star", "ring", "letter", "red shape", "blue shape", "green shape")
ROUNDS, IMAGES = 12, 100
OVERHEAD, ONCE, TEXT_ONCE = 1.10, 0.10, 0.30
BERT_LAYERS, BERT_WIDTH, BERT_HEADS = 12, 768, 12
FEW = 3


def typed_words() -> Row:
    """Typed words on an image whose embedding is there, against its detector and one decode of all boxes alone."""
    orders = itertools.permutations(LOOKED_FOR)
    file = scene_file(SEED, SIZE, image_format="JPEG")
    with HttpServer() as images, tempfile.TemporaryDirectory() as folder:
        images.routes["/scene.jpg"] = Reply(file.data, headers={"Content-Type": "image/jpeg"})
        settings = read(
            {
                "LABEL_STUDIO_URL": images.url,
                "PADDLE_SAM_CACHE_DIR": folder,
                "PADDLE_SAM_DEVICE": "cpu",
                "PADDLE_SAM_DETECTOR": DETECTOR,
            }
        )
        checkpoint = parts.read_weights(settings)
        detector, decoder = parts.read_detector(settings), load_decoder(checkpoint, "cpu")
        encoder = parts.load_encoder(checkpoint, "cpu")
        assert detector is not None
        pixels = decode.decode(file.data, PixelLimits()).pixels
        embedding, counts = encoder.encode(pixels), list[int]()
        service = web.build(settings, checkpoint)

        def ours() -> None:
            text = ", ".join(f"{word}=Cat" for word in next(orders))
            answer = post(service, encoded(click(words(text), label_config=WORDS_CONFIG, tasks=task)))
            counts.append(answer.count(b'"type":"brushlabels"'))

        def theirs() -> None:
            picture = decode.decode(file.data, PixelLimits())
            boxes = select(detector.detect(picture.pixels, LOOKED_FOR), SIZE)
            decoder.decode(embedding, [Prompt(box=np.array(each.box, np.float32)) for each in boxes])
            counts.append(len(boxes))

        task = [{"id": 1, "data": {"image": "/scene.jpg"}}]
        try:
            name = f"typed words to masks, {SIZE[1]}×{SIZE[0]}"
            row = compare(name, ours, theirs, against="detector and one decode", goal=OVERHEAD, rounds=ROUNDS)
        finally:
            service.close()
        assert len(set(counts)) == 1, "both find the same objects"
        return row


def post(service: web.Service, body: bytes) -> bytes:
    """Return the body of the answer to a click."""
    environ = EnvironBuilder("/predict", method="POST", content_length=len(body)).get_environ()
    environ["wsgi.input"] = io.BytesIO(body)
    return b"".join(service.app.wsgi_app(environ, _no_header))


def _no_header(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
    return lambda part: None


def tokenised_once() -> Row:
    """The words of many images with one text: tokenised once, and checked for each image, which is most of ours."""
    detector = parts.read_detector(read({"PADDLE_SAM_DETECTOR": DETECTOR}))
    architecture = directory.read(DETECTOR_FOLDER).architecture
    many = tuple(f"walking man {number}" for number in range(80))
    assert detector is not None
    return compare(
        f"words of {IMAGES} images, tokenised",
        lambda: [detector.check(many) for _ in range(IMAGES)],
        lambda: [architecture.prepare_words(many) for _ in range(IMAGES)],
        against="each time",
        goal=ONCE,
        rounds=5,
    )


class LargeGroundingDino(directories.GroundingDino):
    """One with a text side of BERT's size: as many layers and as wide, which share their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(directories.WIDTH, BERT_WIDTH), nn.Linear(BERT_WIDTH, directories.WIDTH)
        self.layer = nn.TransformerEncoderLayer(BERT_WIDTH, BERT_HEADS, 4 * BERT_WIDTH, dropout=0.0)

    def text_features(self, *text: paddle.Tensor) -> paddle.Tensor:
        features = self.widen(super().text_features(*text))
        for _ in range(BERT_LAYERS):
            features = self.layer(features)
        return self.narrow(features)


def text_once() -> Row:
    """Images with one text by a detector with a text side of BERT's size, against its program run as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = directories.write_grounding_dino(Path(folder) / "large", network=LargeGroundingDino)
        contents, pictures = directory.read(path), [directories.picture(seed=seed) for seed in range(FEW)]
        whole = Detector(
            contents.name, contents.version, contents.architecture, Engine(contents.program, contents.parameters, "cpu")
        )
        detector, many = load_detector(path, "cpu"), [f"red {a}{b}" for a in "abcdefghi" for b in "abcdefg"]
        (text,) = contents.architecture.prepare_words(tuple(many))
        return compare(
            f"{FEW} images, a text of {text.arrays[0].shape[1]} tokens, text side of BERT's size",
            lambda: [detector.detect(picture, many) for picture in pictures],
            lambda: [whole.detect(picture, many) for picture in pictures],
            against="text side for each image",
            goal=TEXT_ONCE,
            rounds=5,
        )


def run() -> list[Row]:
    """Measure everything."""
    logging.getLogger("backend").setLevel(logging.WARNING)
    return [typed_words(), tokenised_once(), text_once()]
