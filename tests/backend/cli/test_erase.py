"""``erase`` removes what is kept of one project, on disk and in Redis, and leaves what is kept of others."""

import contextlib
import json
import re
import sqlite3

import pytest
from click.testing import CliRunner

from backend.cli.main import main
from backend.cluster.keys import DecoderKeys
from backend.concurrency.byte_budget import ByteBudget
from backend.decoders.exchange import QueuedTrainings
from backend.decoders.folder import DecoderFolder
from backend.decoders.training import STATES, State, TrainingLog
from backend.embeddings.content_index import ContentIndex, source_key
from backend.embeddings.content_records import ContentDatabase
from backend.embeddings.local import LocalEmbeddings
from backend.embeddings.stores import FileStore
from backend.metrics import Metrics
from backend.types import ImageRef
from tests.support.checkpoints import random_checkpoint
from tests.support.cluster import KEYS, SOON_S, Cluster
from tests.support.cluster_worker import VERSION
from tests.support.decoder_files import decoder_file
from tests.support.fakes import FakeEncoder, FakeSource, fake_spec, png
from tests.support.redis_server import needs_redis

URL = "http://label-studio:8080"
BASE = random_checkpoint()


@pytest.fixture
def environ(tmp_path):
    folders = {"PADDLE_SAM_CACHE_DIR": str(tmp_path / "cache"), "PADDLE_SAM_DECODERS_DIR": str(tmp_path / "decoders")}
    return {"LABEL_STUDIO_URL": URL, "REDIS_URL": "", **folders}


@pytest.fixture
def erase(environ):
    def erase(project, status=0, **changes):
        """Return the numbers of embeddings on disk, entries in Redis and decoders; the output where it fails."""
        result = CliRunner().invoke(
            main, ["erase", "--project", str(project)], env=environ | changes, catch_exceptions=False
        )
        assert result.exit_code == status, result.output
        return result.output if status else tuple(map(int, re.findall(r": (\d+)$", result.output, re.MULTILINE)))

    return erase


class Service:
    """The embeddings of a service without Redis, as a new process finds them."""

    def __init__(self, cache):
        self.cache, self.source, self.encoder, self.running = cache, FakeSource(), FakeEncoder(), []
        for number, name in enumerate(("own", "shared", "other", "s3://bucket/own")):
            self.source.contents[name] = png((number, 9, 9))

    def get(self, name, project):
        contents = ContentIndex(database=ContentDatabase(self.cache / "contents.db", URL))
        store = FileStore(self.cache, 10_000_000)
        embeddings = LocalEmbeddings(
            self.source, lambda: self.encoder, fake_spec(), store, Metrics(), contents, ByteBudget(10_000_000)
        )
        try:
            embeddings.get(ImageRef(name, task_id=7, project_id=project), SOON_S)
        finally:
            embeddings.close()

    def files(self):
        return len(list(self.cache.glob("*.embedding")))


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path / "cache")


def test_without_redis_the_embeddings_of_a_projects_files_are_erased_and_others_stay(service, erase):
    for name, project in (("own", 1), ("s3://bucket/own", 1), ("shared", 1), ("shared", 2), ("other", 2)):
        service.get(name, project)
    assert service.files() == 4
    assert erase(1) == (3, 0, 0)
    assert service.files() == 1
    service.source.fetched.clear()
    service.get("other", 2)
    assert service.source.fetched == []
    service.get("shared", 2)
    assert service.source.fetched == ["shared"]
    assert erase(1) == (0, 0, 0)
    assert erase(2) == (2, 0, 0)
    assert service.files() == 0


def test_a_file_of_before_the_list_of_files_is_listed_when_its_server_reports_no_change(service, erase):
    service.source.versioned = True
    service.get("own", 1)
    with contextlib.closing(sqlite3.connect(service.cache / "contents.db")) as database, database:
        database.execute("DELETE FROM files_1")
        database.execute("UPDATE contents_1 SET checked_at = 0")
    service.get("own", 1)
    assert service.source.cached[-1] is not None
    assert erase(1) == (1, 0, 0)
    assert service.files() == 0


def test_a_run_that_cannot_remove_a_file_can_be_repeated(service, erase):
    service.get("own", 1)
    [path] = service.cache.glob("*.embedding")
    data, obstacle = path.read_bytes(), path.with_name(f"{path.name[:64]}-obstacle.embedding")
    obstacle.mkdir()
    assert "obstacle" in erase(1, status=2)
    obstacle.rmdir()
    path.write_bytes(data)
    assert erase(1) == (1, 0, 0)


def test_files_that_fell_out_of_an_oversized_list_are_erased_with_any_project(service, erase):
    service.get("own", 1)
    service.get("other", 2)
    path = service.cache / "contents.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE contents_1 SET checked_at = 0 WHERE digest IN "
                         "(SELECT digest FROM files_1 GROUP BY digest LIMIT 1)")  # fmt: skip
    ContentDatabase(path, URL, max_bytes=1).get(("project 1", "00" * 32))
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM files_1").fetchone() == (1,)
    assert erase(1)[0] + erase(2)[0] == 2
    assert service.files() == 0


@pytest.mark.parametrize("damage", [b"", b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_where_the_list_of_files_is_lost_every_embedding_is_erased(service, erase, damage):
    service.get("own", 1)
    service.get("other", 2)
    (service.cache / "contents.db").write_bytes(damage)
    assert erase(1) == (2, 0, 0)
    assert service.files() == 0
    assert erase(1) == (0, 0, 0)


def test_where_a_service_has_begun_a_new_list_of_files_those_of_the_old_one_are_erased(service, erase):
    service.get("own", 1)
    service.get("other", 2)
    (service.cache / "contents.db").write_bytes(b"no database at all " * 100)
    service.get("other", 2)
    assert erase(1) == (1, 0, 0)
    service.source.fetched.clear()
    service.get("other", 2)
    assert service.source.fetched == []


def test_a_list_of_files_that_is_locked_is_an_error_and_nothing_is_removed(service, erase, monkeypatch):
    monkeypatch.setattr("backend.cli.erase.WAIT_S", 0.1)
    service.get("own", 1)
    with contextlib.closing(sqlite3.connect(service.cache / "contents.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "another process uses it" in erase(1, status=2)
    assert service.files() == 1
    assert erase(1) == (1, 0, 0)


def test_decoders_and_the_state_of_a_training_are_erased(environ, erase, tmp_path):
    folder = DecoderFolder(tmp_path / "decoders")
    for project in (1, 2):
        folder.publish(project, decoder_file(BASE, project=project))
        TrainingLog(folder).write(project, State.DONE, "from images 12 and 13")
    state = tmp_path / "cache" / STATES / "1.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"state")
    assert erase(1) == (0, 0, 1)
    assert list(TrainingLog(folder).all()) == [2]
    assert "images" not in folder.path(1, "training.json").read_text()
    assert not state.exists()
    assert folder.record(2).active is not None


def test_a_machine_that_keeps_nothing_is_left_as_it_is(erase, tmp_path):
    assert erase(1) == (0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_redis_that_does_not_answer_is_an_error(erase):
    assert "Redis cannot be reached" in erase(1, status=2, REDIS_URL="redis://127.0.0.1:1/0")


@needs_redis
def test_with_redis_what_it_keeps_of_a_project_is_erased_and_others_stay(redis_server, tmp_path, erase):
    with Cluster(redis_server, tmp_path) as cluster, redis_server.client() as client:
        web = cluster.web()
        for number, name in enumerate(("own", "shared", "other")):
            cluster.add(name, (10 * number, 9, 9))
        cluster.worker()
        refs = {
            (name, project): ImageRef(f"/data/upload/1/{name}.png", task_id=7, project_id=project)
            for name, project in (("own", 1), ("shared", 1), ("shared", 2), ("other", 2), ("other", 11))
        }
        for image in refs.values():
            web.get(image, SOON_S)
        [own] = [key for key in client.hkeys(KEYS.files(1)) if not client.hexists(KEYS.files(2), key)]
        client.set(f"paddle-sam:boxes:{own.decode()}:words:1", "boxes of the own file")
        for project in (1, 11):
            client.rpush(KEYS.answers(project, 7, "image"), "answer")
        folder = DecoderFolder(tmp_path / "decoders")
        folder.publish(1, decoder_file(BASE, project=1))
        shared = {"REDIS_URL": redis_server.address}
        # two embeddings, their boxes, two places, the answers, the decoder's file, and the list of files
        assert erase(1, **shared) == (0, 8, 1)
        left = {name.decode() for name in client.keys("paddle-sam:*")}
        assert {KEYS.content(source_key(image)) for (_, project), image in refs.items() if project != 1} <= left
        assert not [name for name in left if own.decode() in name or "project%201:" in name or name.endswith(":1")]
        assert KEYS.answers(11, 7, "image") in left
        assert len([name for name in left if name.startswith("paddle-sam:embedding:")]) == 1
        assert not client.exists(DecoderKeys(KEYS).decoder(1))
        assert folder.record(1).digests == ()
        assert erase(1, **shared) == (0, 0, 0)
        cluster.web().get(refs["shared", 2], SOON_S)
        assert cluster.downloads().count("shared") == 3


@needs_redis
def test_with_redis_addresses_of_cloud_images_are_erased_by_the_files_that_they_lead_to(redis_server, erase):
    """They are under the number of a task; so are those of other projects, and of files that fell out of a list."""
    files = {"own": "0a" * 32, "other": "0b" * 32, "lost": "0c" * 32}
    with redis_server.client() as client:
        for number, (name, digest) in enumerate(files.items()):
            address = source_key(ImageRef(f"s3://bucket/{name}", task_id=number, project_id=1))
            record = {"digest": digest, "etag": "", "last_modified": "", "immutable": False}
            client.set(KEYS.content(address), json.dumps(record), px=60_000)
            client.set(f"paddle-sam:embedding:{digest}:{VERSION}", "embedding", px=60_000)
        client.hset(KEYS.files(1), files["own"], "")
        client.hset(KEYS.files(2), files["other"], "")
        client.lpush(KEYS.content(("tasks/9", "00" * 32)), "of another type")
        assert erase(1, REDIS_URL=redis_server.address) == (0, 6, 0)
        left = {name.decode() for name in client.keys("paddle-sam:*")}
        other = source_key(ImageRef("s3://bucket/other", task_id=1, project_id=1))
        assert left == {KEYS.content(other), KEYS.files(2), f"paddle-sam:embedding:{files['other']}:{VERSION}"}


@needs_redis
def test_with_redis_a_training_that_waits_is_dropped_and_others_stay(redis_server, tmp_path, erase):
    with Cluster(redis_server, tmp_path) as cluster, cluster.parts() as parts, redis_server.client() as client:
        log = TrainingLog(DecoderFolder(tmp_path / "decoders"))
        trainings = QueuedTrainings(parts, log)
        assert [trainings.start(project, 5) for project in (1, 11, 2)] == [True, True, True]
        erase(1, REDIS_URL=redis_server.address)
        assert list(log.all()) == [2, 11]
        assert [parts.queues.take_training() for _ in range(3)] == [11, 2, None]
        assert client.keys("rq:job:*") == []
        assert trainings.start(1, 5), "it can be started again"


@needs_redis
def test_while_a_worker_trains_a_project_it_is_not_erased(redis_server, tmp_path, erase):
    with Cluster(redis_server, tmp_path) as cluster, cluster.parts() as parts:
        with parts.leases.acquire(DecoderKeys(KEYS).training(1)):
            assert "a worker trains its decoder" in erase(1, status=2, REDIS_URL=redis_server.address)
            erase(2, REDIS_URL=redis_server.address)
        erase(1, REDIS_URL=redis_server.address)


@needs_redis
def test_a_list_of_files_of_another_type_is_deleted(redis_server, erase):
    with redis_server.client() as client:
        client.lpush(KEYS.files(1), "x")
        assert erase(1, REDIS_URL=redis_server.address) == (0, 1, 0)
        assert not client.exists(KEYS.files(1))


@needs_redis
def test_another_machine_removes_its_decoders_of_an_erased_project_too(redis_server, tmp_path, erase):
    shared = {"REDIS_URL": redis_server.address}
    here, other = ({**shared, "PADDLE_SAM_DECODERS_DIR": str(tmp_path / name)} for name in ("decoders", "other"))
    DecoderFolder(tmp_path / "decoders").publish(1, decoder_file(BASE, project=1))
    for machine in (here, other):  # the first shares it, the second takes it over
        CliRunner().invoke(main, ["decoders", "list"], env=machine)
    assert list((tmp_path / "other" / "1").glob("*.safetensors"))
    erase(1, **shared)
    CliRunner().invoke(main, ["decoders", "list"], env=other)
    assert not list((tmp_path / "other" / "1").glob("*.safetensors"))
    assert erase(1, **other) == (0, 0, 0)
