"""``decoders`` lists, compares, pins and rolls back what was fine-tuned, here and over Redis."""

import re

import pytest
from click.testing import CliRunner

from backend.cli.main import main
from backend.composition import decoders as composition_decoders
from backend.decoders.folder import DecoderFolder
from backend.settings import read
from model import tls
from tests.support.checkpoints import random_checkpoint
from tests.support.decoder_files import decoder_file
from tests.support.redis_server import needs_redis

BASE = random_checkpoint()


@pytest.fixture
def folder(tmp_path):
    return DecoderFolder(tmp_path / "decoders")


@pytest.fixture
def run(folder):
    def run(*arguments, status=0, **environ):
        certificates = dict.fromkeys(tls.VARIABLES, "")  # each call would read all of the machine's
        variables = {"PADDLE_SAM_DECODERS_DIR": str(folder.root), "REDIS_URL": "", **certificates, **environ}
        result = CliRunner().invoke(main, ["decoders", *arguments], env=variables, catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result.output

    return run


@pytest.fixture
def two(folder):
    """The digests of a project's two decoders, the older one first."""
    return [folder.publish(7, decoder_file(BASE, seed, project=7, gain=seed / 100)).digest for seed in (1, 2)]


def test_without_decoders_the_list_says_where_it_looked_and_how_one_is_trained(run, folder):
    assert run("list") == f"no decoders in {folder.root}; `finetune --project N` trains one\n"


def test_the_list_marks_the_decoder_that_serves(run, two):
    lines = run("list").splitlines()
    assert lines[0] == "project 7:"
    assert lines[1].startswith(f"* {two[1][:8]}  2026-01-02T12:00:00Z  for {BASE.model_version}, from 60 images")
    assert lines[2].startswith(f"  {two[0][:8]}")
    assert lines[3] == "  base"
    assert run("list", "--project", "8").startswith("no decoders of project 8 in ")


def test_decoders_are_compared_by_their_figures(run, two):
    shown = run("compare", "--project", "7")
    assert re.findall(r"click +(\S+) → (\S+) +(\S+)", shown) == [
        ("0.700", "0.720", "+0.020"),
        ("0.700", "0.710", "+0.010"),
    ]
    assert two[0][:8] not in run("compare", "--project", "7", two[1][:6])


def test_a_rollback_goes_to_the_decoder_before_then_to_the_base_and_no_further(run, folder, two):
    assert run("rollback", "--project", "7").startswith(two[0][:8])
    assert folder.record(7).active == two[0]
    assert run("rollback", "--project", "7") == "base\n"
    assert folder.record(7).active is None
    assert "expected a fine-tuned decoder that serves, got the base" in run("rollback", "--project", "7", status=2)


def test_a_pinned_decoder_stays_until_it_is_unpinned(run, folder, two):
    run("pin", "--project", "7", f"p7-{two[0][:8]}")
    third = folder.publish(7, decoder_file(BASE, 3, project=7)).digest
    assert folder.record(7).active == two[0]
    assert "project 7, pinned:" in run("list")
    run("unpin", "--project", "7")
    fourth = folder.publish(7, decoder_file(BASE, 4, project=7)).digest
    assert folder.record(7).active == fourth != third


def test_the_base_can_be_pinned(run, folder, two):
    run("pin", "--project", "7", "base")
    folder.publish(7, decoder_file(BASE, 3, project=7))
    assert folder.record(7).active is None


@pytest.mark.parametrize("name", ["ffffffffff", "", "p7-", "../x"])
def test_a_name_of_none_or_several_is_refused_with_those_there_are(run, folder, two, name):
    refused = run("pin", "--project", "7", name, status=2)
    assert f"expected the beginning of one of {two[1][:8]}, {two[0][:8]}, or base" in refused
    assert folder.record(7).active == two[1]


def test_a_project_without_decoders_cannot_be_changed(run, folder):
    for arguments in (("rollback",), ("unpin",), ("pin", "base")):
        refused = run(arguments[0], "--project", "9", *arguments[1:], status=2)
        assert "project 9: expected one with fine-tuned decoders" in refused
    assert folder.projects() == ()


def test_a_damaged_file_is_listed_with_what_is_wrong(run, folder, two):
    folder.path(7, f"{two[0]}.safetensors").write_bytes(b"damaged")
    assert "expected a fine-tuned decoder's safetensors file" in run("list")


@needs_redis
def test_with_redis_a_change_reaches_every_machine(run, folder, two, redis_server, tmp_path):
    shared = {"REDIS_URL": redis_server.address}
    run("list", **shared)
    other = {**shared, "PADDLE_SAM_DECODERS_DIR": str(tmp_path / "other")}
    run("pin", "--project", "7", "base", **other)
    run("list", **shared)
    assert (folder.record(7).active, folder.record(7).is_pinned) == (None, True)


@needs_redis
def test_a_decoder_whose_file_is_on_another_machine_is_not_made_to_serve(run, two, redis_server, tmp_path):
    shared = {"REDIS_URL": redis_server.address}
    run("list", **shared)
    other = {**shared, "PADDLE_SAM_DECODERS_DIR": str(tmp_path / "other")}
    assert "run this on a machine where it has served" in run("rollback", "--project", "7", status=2, **other)
    assert f"* {two[1][:8]}" in run("list", **shared)


@needs_redis
def test_a_decoder_that_was_trained_while_redis_is_away_is_kept_here_and_shared_later(run, folder, redis_server):
    environ = {"PADDLE_SAM_DECODERS_DIR": str(folder.root), "REDIS_URL": "redis://127.0.0.1:1/0"}
    digest = composition_decoders.publish(read(environ), 7, decoder_file(BASE, project=7)).digest
    assert folder.record(7).active == digest
    run("list", REDIS_URL=redis_server.address)
    with redis_server.client() as client:
        assert client.hlen("paddle-sam:decoders") == 1


def test_a_redis_that_does_not_answer_is_an_error(run):
    assert "Redis cannot be reached" in run("list", status=2, REDIS_URL="redis://127.0.0.1:1/0")
