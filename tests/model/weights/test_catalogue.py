"""One catalogue: what it says of published weights is true, and every command takes its names."""

import hashlib
import json

import pytest
from click.testing import CliRunner

from model import create_model, weights
from model.cli import main
from model.config import demo, mobile_sam, vit_b, vit_h, vit_l
from model.weights import catalogue
from model.weights.catalogue import DEMO, DETECTORS, ENTRIES, NAMED, SOURCES, Source
from model.weights.download import download
from model.weights.parameters import CAPABILITIES, parameters
from tests.support.fakes import HttpServer, Reply
from tests.support.mobile_files import tiny_mobile, write_published

SAMPLE = catalogue.DEMO_WEIGHTS.parent / "samples" / "square.jpg"
CONFIGS = {"demo": demo, "mobile_sam": mobile_sam, "sam_vit_b": vit_b, "sam_vit_l": vit_l, "sam_vit_h": vit_h}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file such as ``mobile_sam.pt``."""
    return write_published(tiny_mobile(), tmp_path_factory.mktemp("published") / "mobile_sam.pt")


@pytest.fixture
def folder(published, tmp_path):
    """A folder of weights into which it was downloaded."""
    (tmp_path / "mobile_sam.pt").write_bytes(published.read_bytes())
    return tmp_path


def test_every_name_is_there_once():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert set(NAMED) == set(names)
    assert set(SOURCES) == set(NAMED) - {DEMO}


def test_every_file_comes_over_https_and_only_paddlexs_archives_have_no_sum():
    for entry in ENTRIES:
        if entry.source is not None:
            assert entry.source.url.startswith("https://")
            assert (entry.source.sha256 is None) == entry.source.is_archive
    assert NAMED["mobile_sam"].source.file_name == "mobile_sam.pt"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_input_size_and_the_megabytes_are_those_of_the_network(name):
    entry, config = NAMED[name], CONFIGS[name]()
    assert entry.input_size == config.image_size
    if name != DEMO:  # which has no table of its parameters
        numbers = sum(_count(shape) for shape in parameters(config).values())
        assert entry.megabytes == pytest.approx(4 * numbers / 1e6, rel=0.05)


def _count(shape):
    count = 1
    for side in shape:
        count *= side
    return count


def test_the_demo_is_as_large_as_the_file_that_ships_and_can_as_much():
    entry = NAMED[DEMO]
    assert entry.megabytes == pytest.approx(catalogue.DEMO_WEIGHTS.stat().st_size / 1e6, abs=0.05)
    assert set(entry.capabilities) == weights.read(catalogue.DEMO_WEIGHTS).capabilities == set(CAPABILITIES)


def test_list_shows_people_what_there_is_and_what_is_here(folder):
    lines = run("list", "--weights-dir", folder).stdout.splitlines()
    assert lines[0].split() == ["name", "family", "MB", "input", "takes", "licence", "here"]
    cells = {line.split()[0]: line.split() for line in lines[1:-1]}
    assert set(cells) == {*NAMED, *DETECTORS}
    assert (cells["mobile_sam"][2], cells["mobile_sam"][-2:]) == ("40.7", ["Apache-2.0", "yes"])
    assert cells["sam_vit_b"][-1] == "no"
    assert cells["demo"][-1] == "ships"
    assert lines[-1] == f"downloads are kept in {folder}"


def test_list_shows_programs_the_same(folder):
    rows = {row["name"]: row for row in json.loads(run("list", "--weights-dir", folder, "--json").stdout)}
    assert set(rows) == {*NAMED, *DETECTORS}
    assert rows["mobile_sam"]["path"] == str(folder / "mobile_sam.pt")
    assert rows["mobile_sam"]["sha256"] == NAMED["mobile_sam"].source.sha256
    assert rows["sam_vit_b"]["path"] is None
    assert rows["SAM-H_box"]["capabilities"] == ["boxes"]


def test_a_file_with_another_sum_than_the_catalogues_is_refused_and_not_kept(published, tmp_path):
    with HttpServer() as server:
        server.routes["/mobile_sam.pt"] = Reply(published.read_bytes())
        with pytest.raises(weights.WeightsError, match="expected a file of SHA-256 6dbb9052"):
            download("mobile_sam", tmp_path, mirror=server.url)
    assert not any(path.name.startswith("mobile_sam") for path in tmp_path.iterdir())


def test_a_file_of_the_right_sum_is_kept(published, tmp_path):
    with HttpServer() as server:
        server.routes["/mobile_sam.pt"] = Reply(published.read_bytes())
        source = Source(f"{server.url}/mobile_sam.pt", hashlib.sha256(published.read_bytes()).hexdigest())
        path = download("mobile_sam", tmp_path, sources={"mobile_sam": source})
    assert weights.read(path).config.image_encoder == tiny_mobile().image_encoder


def test_inspect_and_export_take_its_names(folder, tmp_path):
    assert json.loads(run("inspect", "mobile_sam", "--weights-dir", folder, "--json").stdout)["format"] == "meta"
    result = run("export", "--weights", "mobile_sam", "--weights-dir", folder, "--format", "native", tmp_path / "own")
    assert result.exit_code == 0
    assert weights.read(tmp_path / "own").config.name == weights.read(folder / "mobile_sam.pt").config.name


@pytest.mark.parametrize("option", ["--weights", "--model"])
def test_segment_takes_its_names(option, folder, tmp_path):
    out = tmp_path / "out"
    result = run("segment", SAMPLE, option, "mobile_sam", "--weights-dir", folder, "--box", "10,10,90,90", "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(next(out.glob("*.json")).read_text())


def test_create_model_takes_its_names(folder):
    assert create_model("mobile_sam", weights_dir=folder, device="cpu").network == "tiny_vit_32x6"


def test_without_a_network_one_sentence_names_the_file_and_where_to_put_it(tmp_path):
    result = run("segment", SAMPLE, "--weights", "mobile_sam", "--weights-dir", tmp_path, "--mirror", "unknown://nowhere",
               "--box", "1,1,2,2", "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code != 0
    assert "mobile_sam cannot be had" in result.output
    assert f"put {NAMED['mobile_sam'].source.url} as {tmp_path / 'mobile_sam.pt'}" in result.output
    assert result.output.count(str(tmp_path)) == 1
