"""Real Redis servers with usual mistakes: the start and the doctor name each, and how to mend it."""

import re
import shutil
import subprocess

import pytest

from backend.cli.doctor.findings import Level
from backend.cli.doctor.redis import examine
from backend.cluster.check import RedisUnusableError, find_troubles, require_usable
from backend.cluster.connection import RedisConnection
from backend.cluster.keys import Keys
from backend.cluster.store import RedisStore
from backend.errors import RetryLater
from backend.settings import read
from backend.types import Secret
from tests.support.cluster import Cluster, colour, eventually, ref
from tests.support.fakes import embedding, key
from tests.support.processes import run
from tests.support.redis_server import RedisServer, free_port, needs_redis

pytestmark = needs_redis
KEYS = Keys("paddle-sam", "SAM@1a2b3c4d")
RULES = ("on", ">word", "~paddle-sam:*", "~rq:*", "&paddle-sam:*", "+@all")


@pytest.fixture
def look():
    """What is wrong with the Redis at an address."""
    links = []

    def look(address):
        links.append(RedisConnection(Secret(address)))
        return find_troubles(links[-1], KEYS)

    yield look
    for link in links:
        link.close()


def as_user(server, *rules):
    """The address of a Redis for a user with these rights."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "sam", "reset", *rules)
    return f"redis://sam:word@127.0.0.1:{server.port}/0"


def cluster_node(folder):
    """A Redis in cluster mode; it listens for other nodes on a second port."""
    files = ["--cluster-config-file", str(folder / "nodes.conf"), "--cluster-port", str(free_port())]
    return RedisServer(folder, more=["--cluster-enabled", "yes", *files])


@pytest.fixture(scope="module")
def cluster_nodes(tmp_path_factory):
    """The addresses of one without slots, and of one with all of them, which is ready after two seconds."""
    empty, full = (cluster_node(tmp_path_factory.mktemp(name)) for name in ("empty", "full"))
    with empty, full, full.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        other = full.address.replace("/0", "/3")
        yield {"without slots": empty.address, "with slots": full.address, "of another number": other}


@pytest.fixture(params=["without slots", "with slots", "of another number"])
def in_cluster_mode(request, cluster_nodes):
    return cluster_nodes[request.param]


def test_a_redis_that_can_be_used_has_no_troubles_and_nothing_is_left_in_it(look, redis_server):
    assert look(redis_server.address) == ()
    with redis_server.client() as client:
        assert client.dbsize() == 0


def test_a_user_with_the_rights_that_operations_names_is_enough_for_everything(look, redis_server, tmp_path):
    address = as_user(redis_server, *RULES, "-@dangerous", "-@admin")
    assert look(address) == ()
    with Cluster(redis_server, tmp_path) as cluster:
        cluster.add("red")
        rights = {"REDIS_URL": address}
        web, _ = cluster.web(**rights), cluster.worker(**rights)
        assert colour(web.get(ref("red"), 60)) == (250, 0, 0)
        (_, stats) = web.store.stats()
        assert (stats.entries, stats.nbytes, stats.trouble) == (1, 0, "")


def test_cluster_mode_is_named_as_such(look, in_cluster_mode):
    (trouble,) = look(in_cluster_mode)
    assert "cluster mode" in trouble.text
    assert trouble.is_lasting


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_cluster_mode_stops_the_start_with_one_line(tmp_path, weights, command):
    with cluster_node(tmp_path) as server:
        port = {"PORT": str(free_port())} if command == "serve" else {}
        completed = run(command, PADDLE_SAM_WEIGHTS=str(weights), REDIS_URL=server.address, **port)
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert completed.stderr.startswith("error: REDIS_URL: this Redis is in cluster mode")


@pytest.mark.parametrize("command", ["EVAL", "BLPOP", "PUBLISH", "HGETALL", "WATCH", "ZADD", "LPOS", "SUBSCRIBE"])
def test_a_command_that_a_user_may_not_use_is_named(look, redis_server, command):
    (trouble,) = look(as_user(redis_server, *RULES, f"-{command.lower()}"))
    assert re.search(rf"may not use .*\b{command}\b", trouble.text)
    assert trouble.is_lasting


def test_a_command_that_redis_does_not_have_is_named(look, tmp_path):
    with RedisServer(tmp_path, more=["--rename-command", "LPOS", ""]) as server:
        (trouble,) = look(server.address)
    assert "LPOS" in trouble.text
    assert "6.2 or later" in trouble.fix


@pytest.mark.parametrize("missing", ["~paddle-sam:*", "~rq:*", "&paddle-sam:*"])
def test_keys_and_channels_that_a_user_may_not_use_are_named(look, redis_server, missing):
    (trouble,) = look(as_user(redis_server, *(rule for rule in RULES if rule != missing)))
    assert "keys or channels" in trouble.text
    assert missing in trouble.fix


@pytest.mark.parametrize("address", ["redis://127.0.0.1:{}/0", "redis://:wrong-word@127.0.0.1:{}/0"])
def test_a_password_that_is_wrong_or_missing_is_reported_and_not_shown(look, tmp_path, address, caplog):
    with RedisServer(tmp_path, password="open-sesame") as server:
        (trouble,) = look(address.format(server.port))
        assert "password" in trouble.text
        assert "percent-encoded" in trouble.fix
        assert "wrong-word" not in str(trouble)
        require_usable(RedisConnection(Secret(address.format(server.port))), KEYS)  # it may be changed on either side
    assert "event=redis_not_usable detail='Redis refuses the password" in caplog.text
    assert "wrong-word" not in caplog.text


def test_what_no_password_can_mend_is_not_waited_for(redis_server):
    with pytest.raises(RedisUnusableError, match="REDIS_URL: this user of Redis may not use EVAL"):
        require_usable(RedisConnection(Secret(as_user(redis_server, *RULES, "-eval"))), KEYS)


def test_a_replica_and_a_full_redis_are_reported_and_waited_for(look, tmp_path):
    with RedisServer(tmp_path) as server, server.client() as client:
        client.replicaof("127.0.0.1", free_port())
        (trouble,) = look(server.address)
        assert "replica" in trouble.text
        require_usable(RedisConnection(server.url), KEYS)
        client.replicaof("NO", "ONE")
        server.config(maxmemory_policy="noeviction", maxmemory="1")
        assert any("maxmemory" in trouble.text for trouble in look(server.address))
        require_usable(RedisConnection(server.url), KEYS)


def test_a_redis_that_does_not_answer_yet_is_waited_for():
    nowhere = RedisConnection(Secret(f"redis://127.0.0.1:{free_port()}/0"))
    require_usable(nowhere, KEYS)
    with pytest.raises(RetryLater):
        find_troubles(RedisConnection(Secret(f"redis://127.0.0.1:{free_port()}/0")), KEYS)


# The doctor


def findings(address, weights):
    settings = read({"REDIS_URL": address, "PADDLE_SAM_WEIGHTS": str(weights)})
    by_subject = list(examine(settings))
    assert all(bool(finding.fix) == (finding.level is not Level.OK) for finding in by_subject), "each with its fix"
    return {finding.subject: finding for finding in by_subject}


def test_the_doctor_names_cluster_mode_and_no_more(in_cluster_mode, weights):
    reported = findings(in_cluster_mode, weights)
    assert set(reported) == {"Redis"}
    assert "cluster mode" in reported["Redis"].text


def test_the_doctor_goes_on_where_it_may_not_ask_info(redis_server, weights):
    reported = findings(as_user(redis_server, *RULES, "-info"), weights)
    assert reported["Redis"].level is Level.HINT
    assert "INFO" in reported["Redis"].text
    assert set(reported) == {"Redis", "workers", "queues"}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the PATH to make a certificate")
def test_the_doctor_recognises_a_port_that_speaks_tls_and_a_certificate_that_is_not_known(tmp_path, weights):
    private, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    subject = ["-subj", "/CN=localhost", "-keyout", str(private), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run(command, check=True, capture_output=True)
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(private)]
    with RedisServer(tmp_path, more=[*tls, "--tls-auth-clients", "no"]):
        fixes = [
            findings(address, weights)["Redis"].fix
            for address in (
                f"redis://localhost:{port}",
                f"rediss://localhost:{port}",
            )
        ]
    assert "speaks TLS only, write rediss://" in fixes[0]
    assert "?ssl_ca_certs=FILE" in fixes[1]


def test_the_status_page_counts_nothing_and_complains_of_nothing_where_it_may_not_ask(redis_server):
    link = RedisConnection(Secret(as_user(redis_server, *RULES, "-info", "-scan", "-dbsize")))
    store = RedisStore(link, KEYS, 60.0)
    store.put(key(), embedding())
    (stats,) = store.stats()
    assert (stats.entries, stats.nbytes, stats.max_bytes, stats.trouble) == (0, 0, 0, "")
    link.close()
