"""Every family of networks keeps the same promises: in the service, over Redis, over a project, on the command line."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from backend.cli.main import main as backend
from backend.cluster.keys import Keys
from backend.composition import parts, web
from backend.embeddings.serialization import rounded
from backend.metrics import Metrics
from backend.segmentation.decoding import MaskService
from backend.settings import read
from backend.types import ObjectPrompt
from model import load, weights
from model.build import load_decoder, load_encoder
from model.cli import main as model
from model.images import orientation
from model.types import Embedding
from model.weights import catalogue
from tests.reference.prompts import KINDS, prompt
from tests.reference.random_weights import photo
from tests.support.cluster import SOON_S, Cluster, eventually
from tests.support.fake_project import PROJECT, SIZE_WH, FakeProject, box
from tests.support.fake_project_server import FakeProjectServer
from tests.support.fakes import LEGACY_TOKEN, png
from tests.support.families import FAMILIES, write_family
from tests.support.processes import environment
from tests.support.redis_server import needs_redis, redis_module_server, redis_server  # noqa: F401 - fixtures
from tests.support.wire_bodies import BROWSER, CONFIG, click, data_uri, encoded, rectangle, result
from tests.support.wire_reader import checked

PHOTO_SIZE = (90, 120)


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, tmp_path_factory):
    """The weights of one family."""
    return write_family(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def checkpoint(path):
    return weights.read(path)


@pytest.fixture(scope="module")
def halves(checkpoint):
    return load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")


@pytest.fixture
def picture(tmp_path):
    from PIL import Image

    Image.fromarray(photo(*PHOTO_SIZE)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def settings_of(path, folder, **more):
    return {
        "PADDLE_SAM_WEIGHTS": str(path),
        "PADDLE_SAM_CACHE_DIR": str(folder / "cache"),
        "PADDLE_SAM_DEVICE": "cpu",
        **more,
    }


def run(group, *arguments, **environ):
    return CliRunner(env=environ).invoke(group, [str(argument) for argument in arguments], catch_exceptions=False)


def clicks(size=(320, 240)):
    """A point, two points of both signs, a box, a box and a point, each on an image of its own kind."""
    point = {"x": 50.0, "y": 50.0, "width": 0.5, "keypointlabels": ["Cat"]}
    width, height = size
    sizes = {"original_width": width, "original_height": height}
    positive = result(value=point, **sizes)
    negative = result(value=point | {"x": 10.0}, id="prompt-two", is_positive=False, **sizes)
    area = rectangle(20, 20, 50, 50, id="prompt-box", **sizes)
    image = {"id": 1, "data": {"image": data_uri(size, (10, 120, 240))}}
    return {
        name: click(*context, tasks=[image])
        for name, context in {
            "point": [positive], "points": [positive | {"is_positive": True}, negative],
            "box": [area], "box and point": [area, positive],
        }.items()
    }  # fmt: skip


def test_a_family_is_one_of_the_catalogues_and_the_catalogue_names_no_other():
    assert set(FAMILIES) == {entry.family for entry in catalogue.NAMED.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_gets_masks_of_the_photos_size(halves, kind):
    encoder, decoder = halves
    embedding = encoder.encode(photo(*PHOTO_SIZE))
    prompt_of_kind = prompt(kind, PHOTO_SIZE, decoder.config.low_res_size)
    for wanted, count in ((True, 3), (False, 1)):
        answer = decoder.decode(embedding, prompt_of_kind, wanted)
        assert [mask.original_size for mask in answer.masks[0]] == [PHOTO_SIZE] * count
        assert all(0 <= score <= 1 for score in answer.iou_predictions[0])


@pytest.mark.parametrize("size", [(1, 1), (500, 4), (3, 600)])
def test_photos_of_odd_shapes_are_answered(halves, size):
    encoder, decoder = halves
    answer = decoder.decode(encoder.encode(photo(*size)), prompt("box", size, decoder.config.low_res_size))
    assert answer.masks[0][0].to_array().shape == size


def test_several_objects_at_once_get_the_masks_that_they_get_alone(halves):
    encoder, decoder = halves
    embedding = encoder.encode(photo(*PHOTO_SIZE))
    prompts = [prompt(kind, PHOTO_SIZE, decoder.config.low_res_size) for kind in KINDS]
    for prompt_alone, together in zip(prompts, decoder.decode(embedding, prompts).low_res_masks, strict=True):
        np.testing.assert_allclose(decoder.decode(embedding, prompt_alone).low_res_masks[0], together, atol=1e-3)


@pytest.mark.parametrize("turn", [1, 6])
def test_an_answers_logits_are_a_mask_input_of_the_same_image_however_it_is_shown(halves, turn):
    encoder, decoder = halves
    embedding = replace(encoder.encode(photo(*PHOTO_SIZE)), other_orientation=turn)
    shown = orientation.turned_size(PHOTO_SIZE, turn)
    service = MaskService(lambda _: decoder, Metrics(), 1)

    def decoded(prompt_of_kind):
        moved = orientation.turned_prompt(prompt_of_kind, turn, PHOTO_SIZE)
        objects = [ObjectPrompt(moved, ("id",), (), "point", "image", shown)]
        [masks] = service.decode(decoder, objects, embedding)
        assert masks.mask.original_size == shown
        return masks

    points_prompt = prompt("points", PHOTO_SIZE, decoder.config.low_res_size)
    first = decoded(points_prompt)
    assert first.low_res_mask.shape == (decoder.config.low_res_size,) * 2
    refined = replace(points_prompt, mask_input=first.low_res_mask)
    expected = decoder.decode(embedding, refined)
    np.testing.assert_allclose(decoded(refined).low_res_mask, expected.low_res_masks[0][0], atol=1e-3)
    assert not np.allclose(expected.low_res_masks[0][0], first.low_res_mask, atol=1e-3), "it makes a difference"


def test_embeddings_kept_in_half_precision_give_nearly_the_same_masks(halves):
    encoder, decoder = halves
    exact = encoder.encode(photo(*PHOTO_SIZE))
    half = rounded(exact, "float16")
    assert all(array.dtype == np.float16 for array in half.maps.values())
    prompts = [prompt(kind, PHOTO_SIZE, decoder.config.low_res_size) for kind in KINDS]
    for a, b in zip(decoder.decode(exact, prompts).masks, decoder.decode(half, prompts).masks, strict=True):
        pixels = a[0].to_array(), b[0].to_array()
        union = np.count_nonzero(pixels[0] | pixels[1])
        assert np.count_nonzero(pixels[0] ^ pixels[1]) <= max(3, 0.001 * union)


@pytest.mark.parametrize("kind", clicks())
def test_the_service_answers_clicks_in_the_wires_form_and_its_status_page_names_the_model(path, kind, tmp_path):
    chosen = read(settings_of(path, tmp_path))
    service = web.build(chosen, parts.read_weights(chosen))
    try:
        client, body = service.app.test_client(), clicks()[kind]
        version = service.segmenter.model_version
        items = checked(body, client.post("/predict", data=encoded(body)), version)
        assert len(items) <= 1
        assert service.metrics.recent()[0].reasons or items[0]["result"]
        assert version in client.get("/", headers=BROWSER).text
        assert client.get("/health").status_code == 200
    finally:
        service.close()


def test_whole_projects_are_encoded_and_preannotated(path, tmp_path):
    with FakeProjectServer(FakeProject(CONFIG)) as server:
        for number in range(3):
            shapes = [{"id": 1, "result": [box()]}]
            server.upload(f"{number}.png", png((number, 9, 7), SIZE_WH), annotations=shapes)
        own = settings_of(path, tmp_path, LABEL_STUDIO_URL=server.url, LABEL_STUDIO_API_KEY=LEGACY_TOKEN)
        environ = {name: None for name in os.environ if name not in environment()} | environment() | own
        encoded_ = run(backend, "precompute", "--project", PROJECT, **environ)
        assert (encoded_.exit_code, "encoded  3" in encoded_.stdout) == (0, True), encoded_.output
        result = run(backend, "preannotate", "--project", PROJECT, "--from", "boxes", **environ)
        assert result.exit_code == 0, result.output
        assert {prediction.model_version for prediction in server.project.stored.values()} <= {
            weights.read(path).model_version
        }


def test_the_command_line_segments_inspects_measures_and_writes(path, picture, tmp_path):
    result = run(model, "segment", picture, "--weights", path, "--box", "10,10,60,70", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "photo_mask_1.png", "photo_res.jpg", "photo_res.json",
    ]  # fmt: skip
    summary = json.loads(run(model, "inspect", path, "--json").stdout)
    assert summary["model_version"] == weights.read(path).model_version
    figures = json.loads(run(model, "benchmark", "--weights", path, "--device", "cpu", "--runs", 1, "--json").stdout)
    assert figures["encode_ms"] > 0
    written = run(model, "export", "--weights", path, "--format", "native", tmp_path / "again")
    assert written.exit_code == 0, written.output
    assert weights.read(tmp_path / "again").config == weights.read(path).config


def test_everything_in_a_picture_is_segmented(path, picture, tmp_path):
    result = run(
        model, "segment", picture, "--weights", path, "--everything", "--points-per-side", 4,
        "--pred-iou-thresh", 0, "--stability-score-thresh", 0, "--out", tmp_path / "out",
        "--coco-out", tmp_path / "masks.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "masks.json").read_text())["annotations"]


def test_paddlexs_surface_gives_results(path, picture):
    [result] = load(weights.read(path), device="cpu").predict(str(picture), prompts={"box_prompt": [[10, 10, 60, 70]]})
    assert result["masks"][0].shape == PHOTO_SIZE


def test_an_embedding_of_another_family_is_refused_in_one_sentence(halves):
    _, decoder = halves
    other_embedding = Embedding(np.zeros((7, 5, 5), np.float32), PHOTO_SIZE, PHOTO_SIZE, "other@00000000")
    with pytest.raises(ValueError, match=rf"^embedding: expected .*{decoder.model_version}, got .*other@00000000$"):
        decoder.decode(other_embedding, prompt("box", PHOTO_SIZE, decoder.config.low_res_size))


@needs_redis
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_encodes_for_web_processes_over_redis(path, redis_server, tmp_path):  # noqa: F811
    with Cluster(redis_server, tmp_path) as cluster:
        own = {**cluster.environ, **settings_of(path, tmp_path, PADDLE_SAM_PREDICT_BUDGET_S=str(SOON_S))}
        process = cluster.spawn("backend", "worker", env={**os.environ, **own})
        name = f":{process.pid} ".encode()
        version = weights.read(path).model_version
        workers = Keys("paddle-sam", version).workers
        with cluster.redis.client() as client:
            eventually(lambda: any(name in worker for worker in client.zrange(workers, 0, -1)))
        chosen = read(own)
        service = web.build(chosen, parts.read_weights(chosen))
        try:
            service.start()
            body = clicks()["box"]
            checked(body, service.app.test_client().post("/predict", data=encoded(body)), version)
            eventually(lambda: b"paddle_sam_cluster_encodes 1.0" in service.metrics.exposition())
        finally:
            service.close()
