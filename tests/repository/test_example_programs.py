"""The programs in examples/: each runs, and what it writes can be used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.cluster.store import RedisStore
from backend.composition import cluster, parts
from backend.images.decode import PixelLimits, decode
from backend.metrics import Metrics
from backend.protocol import rle
from backend.settings import read
from model.build import load_encoder
from model.demo import SAMPLES
from tests.support.redis_server import RedisServer, needs_redis

examples = pytest.importorskip("examples", reason="reads the source tree's own files")
from examples import embeddings_from_redis, own_detector, preannotate  # noqa: E402 - they lie in a clone only

SQUARE = SAMPLES / "square.jpg"
README = Path(examples.__file__).with_name("README.md")


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for name in ("PADDLE_SAM_WEIGHTS", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEVICE", "cpu")


def test_the_readme_names_every_example():
    there = {path.name for path in README.parent.glob("*.py")} - {"__init__.py"}
    text = README.read_text()
    assert {name for name in there if f"| `{name}` |" in text and f"-m examples.{name[:-3]} " in text} == there


@pytest.mark.slow
def test_everything_in_a_folder_becomes_tasks_with_predictions(tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "tasks.json"
    folder.mkdir()
    shutil.copy(SAMPLES / "portrait.jpg", folder)
    (folder / "notes.txt").write_text("no picture")
    preannotate.main([str(folder), "--out", str(out), "--images", "http://images/", "--points-per-side", "6"])
    [task] = json.loads(out.read_text())
    assert task["data"] == {"image": "http://images/portrait.jpg"}
    [prediction] = task["predictions"]
    assert prediction["model_version"].startswith("demo@")
    for region in prediction["result"]:
        size = region["original_height"], region["original_width"]
        assert rle.decode(bytes(region["value"]["rle"]), size).area > 0
    assert prediction["result"] != []
    assert "notes.txt: " in capsys.readouterr().err


@pytest.mark.slow
def test_boxes_of_a_detector_become_masks_of_a_coco_file(tmp_path):
    picture, out = tmp_path / "two.png", tmp_path / "masks.json"
    image = np.full((200, 300, 3), 240, np.uint8)
    image[40:90, 50:120] = (200, 30, 30)
    image[100:170, 180:260] = (30, 60, 180)
    Image.fromarray(image).save(picture)
    assert own_detector.detect(image) == [(50, 40, 120, 90), (180, 100, 260, 170)]
    own_detector.main([str(picture), "--out", str(out)])
    coco = json.loads(out.read_text())
    assert [each["file_name"] for each in coco["images"]] == ["two.png"]
    assert [each["area"] > 1000 for each in coco["annotations"]] == [True, True]


@pytest.mark.slow
@needs_redis
def test_a_mask_comes_from_the_embedding_in_redis(tmp_path, monkeypatch):
    out = tmp_path / "mask.png"
    arguments = [str(SQUARE), "--box", "100,100,400,400", "--out", str(out)]
    with RedisServer(tmp_path) as redis:
        monkeypatch.setenv("REDIS_URL", redis.address)
        with pytest.raises(SystemExit, match="not encoded yet"):
            embeddings_from_redis.main(arguments)
        put(read({"REDIS_URL": redis.address, "DEVICE": "cpu"}), SQUARE)
        embeddings_from_redis.main(arguments)
    mask = decode(out.read_bytes(), PixelLimits()).pixels
    assert mask.shape == decode(SQUARE.read_bytes(), PixelLimits()).pixels.shape
    assert set(np.unique(mask)) == {0, 255}


def put(settings, path):
    """Encode a picture as a worker does."""
    checkpoint = parts.read_weights(settings)
    shared, spec = cluster.connect(settings, checkpoint.model_version), parts.encode_spec(settings, checkpoint)
    store = RedisStore(shared.link, shared.keys, settings.redis_ttl_s, Metrics().stage)
    data = path.read_bytes()
    store.put(spec.key_of(data), load_encoder(checkpoint).encode(decode(data, PixelLimits()).pixels))
    shared.link.close()
