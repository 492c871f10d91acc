"""Two web processes and a worker over Redis: both take up a project's new decoder, and no answer is a mixture."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from backend.composition import decoders as composition_decoders
from backend.composition import parts, web
from backend.settings import read
from model.weights import decoder_weights
from model.weights.formats import native
from tests.support.checkpoints import random_checkpoint
from tests.support.cluster import KEYS, Cluster, eventually
from tests.support.decoder_files import PROJECT, decoder_file
from tests.support.processes import serving
from tests.support.redis_server import needs_redis
from tests.support.wire_bodies import click_on, data_uri, encoded

pytestmark = [needs_redis, pytest.mark.slow, pytest.mark.timeout(600)]

BODY = encoded(click_on(data_uri((320, 240), (10, 120, 240)), (320, 240)))
WITHIN_S = 10.0


@pytest.fixture
def team(redis_server, tmp_path):
    """Two web processes and a worker, each with a folder of decoders of its own."""
    weights = native.write(random_checkpoint(), tmp_path / "small.safetensors")
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(redis_server, tmp_path))
        shared = {**cluster.environ, "PADDLE_SAM_WEIGHTS": str(weights), "PADDLE_SAM_DEVICE": "cpu"}
        del shared["PADDLE_SAM_DECODERS_DIR"]
        worker = cluster.spawn("backend", "worker", env={**os.environ, **shared, **folder_of(tmp_path / "worker")})
        servers = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            servers.append(stack.enter_context(serving(tmp_path / name, **shared)))
        with redis_server.client() as client:
            eventually(lambda: any(f":{worker.pid} ".encode() in name for name in client.zrange(KEYS.workers, 0, -1)))
        command = read({**shared, **folder_of(tmp_path / "command")})
        yield servers, command, parts.read_weights(command)


def folder_of(path):
    return {"PADDLE_SAM_DECODERS_DIR": str(path / "decoders")}


def click(server):
    """The version and the regions of an answer."""
    status, body = server.ask("/predict", BODY)
    assert status == 200, body
    [item] = json.loads(body)["results"]
    return item["model_version"], json.dumps(item["result"])


def alone(settings, path, data=None):
    """The same of a service without Redis, with a decoder or without."""
    own = settings.model_copy(update={"redis_url": None, "decoders_dir": path, "cache_dir": path / "cache"})
    if data is not None:
        composition_decoders.publish(own, PROJECT, data)
    service = web.build(own, parts.read_weights(own))
    service.start()
    try:
        answer = service.app.test_client().post("/predict", data=BODY)
        [item] = answer.json["results"]
        return item["model_version"], json.dumps(item["result"])
    finally:
        service.close()


def test_both_web_processes_take_a_new_decoder_up_and_no_click_is_answered_by_a_mixture(team, tmp_path):
    servers, command, checkpoint = team
    files = [decoder_file(checkpoint, seed) for seed in (1, 2)]
    expected = dict([alone(command, tmp_path / "alone-base")])
    expected |= dict(alone(command, tmp_path / f"alone-{seed}", data) for seed, data in enumerate(files))
    versions = list(expected)
    assert len(set(expected.values())) == 3, "they answer differently"
    for server in servers:
        eventually(lambda server=server: click(server) == (versions[0], expected[versions[0]]))
    stop, versions_of = threading.Event(), [set(), set()]

    def hammer(index):
        while not stop.is_set():
            version, result = click(servers[index])
            assert expected[version] == result, version
            versions_of[index].add(version)

    def change(digest):
        with composition_decoders.exchanged(command) as folder:
            folder.change(PROJECT, lambda record: replace(record, active=digest))

    with ThreadPoolExecutor(4) as pool:
        hammering = [pool.submit(hammer, index) for index in (0, 1, 0, 1)]
        took_s = []
        steps = [
            lambda: composition_decoders.publish(command, PROJECT, files[0]),
            lambda: composition_decoders.publish(command, PROJECT, files[1]),
            lambda: change(None),
            lambda: change(decoder_weights.parse(files[0]).digest),
        ]
        for step, version in zip(steps, (*versions[1:], *versions[:2]), strict=True):
            step()
            began = time.monotonic()
            for server in servers:
                eventually(lambda server=server, version=version: setup(server) == version)
            took_s.append(time.monotonic() - began)
        stop.set()
        for each in hammering:
            each.result()
    assert max(took_s) < WITHIN_S
    assert versions_of[0] == versions_of[1] == set(versions)


def setup(server):
    status, body = server.ask("/setup", json.dumps({"project": f"{PROJECT}.1795380049", "schema": ""}).encode())
    assert status == 200
    return json.loads(body)["model_version"]


def test_a_killed_service_serves_with_the_old_decoder_after_its_restart(team, tmp_path):
    servers, command, checkpoint = team
    decoder = composition_decoders.publish(command, PROJECT, decoder_file(checkpoint, 1))
    expected = decoder_weights.apply(checkpoint, decoder).model_version
    eventually(lambda: setup(servers[0]) == expected)
    servers[0].process.kill()
    servers[0].process.wait(60)
    folder = tmp_path / "first" / "decoders" / str(PROJECT)
    (folder / f"{'a' * 64}.safetensors").write_bytes(b"half of a file, as a killed process leaves it")
    with serving(tmp_path / "first", PADDLE_SAM_WEIGHTS=command.weights, PADDLE_SAM_DEVICE="cpu") as again:
        assert setup(again) == expected
        assert click(again)[0] == expected
