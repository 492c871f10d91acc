"""The demo with weights of one's choice: they are there, or are downloaded, before anything starts."""

import hashlib

import pytest

from backend.demo.command import Demo, run
from backend.demo.processes import DemoError
from model.demo import SAMPLES
from model.weights.catalogue import SOURCES, Source
from tests.support.fakes import HttpServer, Reply
from tests.support.mobile_files import tiny_mobile, write_published

NOTHING_ELSE = "Label Studio is not installed"
"""What the demo says next, once it has the weights; there is none here."""


@pytest.fixture
def demo(tmp_path):
    return Demo(tmp_path / "demo", tmp_path / "no-python", SAMPLES, weights="mobile_sam")


@pytest.fixture
def published(tmp_path):
    return write_published(tiny_mobile(), tmp_path / "mobile_sam.pt").read_bytes()


def start(demo, folder):
    """Start the demo, which comes as far as looking for Label Studio, and return why it ended."""
    with pytest.raises(DemoError) as ended:
        run(demo, {"MODEL_DIR": str(folder)}, lambda line: None)
    return str(ended.value)


def test_weights_are_downloaded_once_before_anything_starts(demo, published, tmp_path, monkeypatch, capsys):
    with HttpServer() as server:
        server.routes["/mobile_sam.pt"] = Reply(published)
        source = Source(f"{server.url}/mobile_sam.pt", hashlib.sha256(published).hexdigest())
        monkeypatch.setitem(SOURCES, "mobile_sam", source)  # all else is as it is for people
        assert NOTHING_ELSE in start(demo, tmp_path / "weights")
        assert NOTHING_ELSE in start(demo, tmp_path / "weights")
        assert server.paths() == ["/mobile_sam.pt"]
    assert (tmp_path / "weights" / "mobile_sam.pt").read_bytes() == published


def test_without_a_network_one_sentence_says_which_file_to_put_where(demo, tmp_path, monkeypatch):
    url = SOURCES["mobile_sam"].url
    monkeypatch.setitem(SOURCES, "mobile_sam", Source("unknown" + url.removeprefix("https"), "0" * 64))
    output = start(demo, tmp_path / "weights")
    assert output.startswith("mobile_sam cannot be had: ")
    assert f"put unknown{url.removeprefix('https')} as {tmp_path / 'weights' / 'mobile_sam.pt'}" in output
    assert NOTHING_ELSE not in output


def test_weights_that_were_put_there_by_hand_need_no_network(demo, published, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobile_sam.pt").write_bytes(published)
    assert NOTHING_ELSE in start(demo, tmp_path / "weights")


def test_weights_that_are_none_are_reported_before_anything_starts(demo, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobile_sam.pt").write_bytes(b"<html>")
    assert "expected a PaddleX inference directory" in start(demo, tmp_path / "weights")
