"""Downloads against a real HTTP server: resumed, verified, and never half there."""

import hashlib
import io
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model import weights
from model.detection import directory
from model.weights import WeightsError
from model.weights.download import SOURCES, Source, download, downloaded
from tests.golden.paddlex import make as golden
from tests.support import checkpoints
from tests.support import detector_directories as directories
from tests.support.processes import free_port
from tests.support.weights_files import golden_directory


@dataclass
class Server:
    """Files on loopback, with the faults a test asks for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # statuses of the next answers
    etag: str = '"1"'
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)  # the Range of each request
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_GET(self):
        state = self.state
        state.ranges.append(self.headers.get("Range"))
        content = state.files.get(self.path.rsplit("/", 1)[-1])
        status = state.statuses.pop(0) if state.statuses else 200 if content is not None else 404
        if status != 200:
            self.send_error(status)
            return
        start, whole = self.start(), len(content)
        if start >= whole:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{whole}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", state.etag)
        self.send_header("Content-Length", str(whole - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        cut = state.cut_after.pop(0) if state.cut_after else whole
        self.wfile.write(content[start : start + cut])
        self.close_connection = True

    def start(self):
        range_header, tag = self.headers.get("Range"), self.headers.get("If-Range")
        if not range_header or not self.state.knows_ranges or tag != self.state.etag:
            return 0
        return int(range_header.removeprefix("bytes=").rstrip("-"))

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    state = Server()
    handler = type("Bound", (Handler,), {"state": state})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{running.server_port}"
    yield state
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A checkpoint of Meta's format."""
    tensors = checkpoints.random_tensors(golden.MINUTE, golden.SEED)
    return checkpoints.write_meta(tensors, tmp_path_factory.mktemp("made") / "sam.pth").read_bytes()


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    """A tar as PaddleX publishes them."""
    return tar_of(golden_directory("legacy_box_2.6.2", tmp_path_factory.mktemp("made") / "SAM-H_box_infer"))


def tar_of(directory: Path, *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info, data in extra:
            tar.addfile(info, io.BytesIO(data))
        tar.add(directory, arcname=directory.name)
    return stream.getvalue()


def source(server: Server, name: str, content: bytes | None = None) -> dict[str, Source]:
    """What can be downloaded, with the checksum of ``content``."""
    return {"it": Source(f"{server.address}/{name}", content and hashlib.sha256(content).hexdigest())}


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".sha256")))


def test_a_file_arrives_whole_under_its_own_name(server, content, tmp_path):
    server.files["sam_vit_x_01ec64.pth"] = content
    path = download("it", tmp_path / "new", sources=source(server, "sam_vit_x_01ec64.pth", content))
    assert path == tmp_path / "new" / "sam_vit_x_01ec64.pth"
    assert path.read_bytes() == content
    assert leftovers(path.parent) == [path.name]


def test_an_archive_arrives_as_a_directory_that_can_be_read(server, archive, tmp_path):
    server.files["SAM-H_box_infer.tar"] = archive
    path = download("it", tmp_path, sources=source(server, "SAM-H_box_infer.tar"))
    assert weights.read(path).name == "SAM-H_box"
    assert leftovers(tmp_path) == ["SAM-H_box_infer"]


def test_what_is_there_already_is_not_fetched_again(server, content, tmp_path):
    server.files["sam.pth"] = content
    sources = source(server, "sam.pth", content)
    assert downloaded("it", tmp_path, sources) is None
    first = download("it", tmp_path, sources=sources)
    assert download("it", tmp_path, sources=sources) == first == downloaded("it", tmp_path, sources)
    assert len(server.ranges) == 1


def test_a_connection_that_breaks_is_resumed_where_it_broke(server, content, tmp_path):
    server.files["sam.pth"] = content
    server.cut_after = [30_000, 20_000]
    path = download("it", tmp_path, sources=source(server, "sam.pth", content))
    assert path.read_bytes() == content
    assert server.ranges == [None, "bytes=30000-", "bytes=50000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, content, tmp_path):
    server.files["sam.pth"] = content
    server.cut_after = [40_000]
    with pytest.raises(weights.WeightsError, match="expected the whole file"):
        download("it", tmp_path, sources=source(server, "sam.pth", content), attempts=1)
    assert visible(tmp_path) == []
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content
    assert server.ranges == [None, "bytes=40000-"]


def test_a_download_that_was_complete_but_not_installed_is_not_fetched_again(server, content, tmp_path):
    server.files["sam.pth"] = content
    (tmp_path / ".sam.pth.part").write_bytes(content)
    (tmp_path / ".sam.pth.validator").write_text(server.etag)
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content
    assert server.ranges == [f"bytes={len(content)}-"]


def test_a_file_that_changed_on_the_server_is_fetched_from_its_beginning(server, content, tmp_path):
    server.files["sam.pth"] = content
    (tmp_path / ".sam.pth.part").write_bytes(b"of another version")
    (tmp_path / ".sam.pth.validator").write_text('"0"')
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content


def test_a_part_longer_than_the_servers_file_is_dropped(server, content, tmp_path):
    server.files["sam.pth"] = content
    (tmp_path / ".sam.pth.part").write_bytes(content + b"more")
    (tmp_path / ".sam.pth.validator").write_text(server.etag)
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content


def test_a_server_without_ranges_is_asked_from_the_beginning(server, content, tmp_path):
    server.files["sam.pth"] = content
    server.knows_ranges, server.cut_after = False, [30_000]
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content


def test_a_busy_server_is_asked_again(server, content, tmp_path):
    server.files["sam.pth"] = content
    server.statuses = [503, 429]
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content


def test_a_file_that_is_not_there_is_an_error_at_once_and_leaves_nothing(server, tmp_path):
    with pytest.raises(weights.WeightsError, match=r"sam\.pth: expected the file, got HTTP status 404"):
        download("it", tmp_path, sources=source(server, "sam.pth"))
    assert len(server.ranges) == 1
    assert leftovers(tmp_path) == []


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server, content, tmp_path):
    server.files["sam.pth"] = content[:-1] + b"?"
    expected = hashlib.sha256(content).hexdigest()
    with pytest.raises(weights.WeightsError, match=f"expected a file of SHA-256 {expected}"):
        download("it", tmp_path, sources=source(server, "sam.pth", content))
    assert leftovers(tmp_path) == []


def test_an_error_page_in_place_of_an_archive_is_refused_and_leaves_nothing(server, tmp_path):
    server.files["SAM-H_box_infer.tar"] = b"<html>Please log in</html>" * 1000
    with pytest.raises(weights.WeightsError, match="expected a tar"):
        download("it", tmp_path, sources=source(server, "SAM-H_box_infer.tar"))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_an_archive_that_ends_too_early_is_refused_and_leaves_nothing(server, archive, tmp_path, part):
    server.files["SAM-H_box_infer.tar"] = archive[: int(len(archive) * part)]
    with pytest.raises(weights.WeightsError, match="expected"):
        download("it", tmp_path, sources=source(server, "SAM-H_box_infer.tar"))
    assert leftovers(tmp_path) == []


def test_an_archive_cannot_write_outside_its_directory(server, tmp_path):
    outside = tarfile.TarInfo("../../escaped")
    outside.size = 4
    link = tarfile.TarInfo("SAM-H_box_infer/inference.yml")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    directory = golden_directory("legacy_box_2.6.2", tmp_path / "SAM-H_box_infer")
    (directory / "inference.yml").unlink()
    server.files["SAM-H_box_infer.tar"] = tar_of(directory, (outside, b"evil"), (link, b""))
    path = download("it", tmp_path / "a" / "b", sources=source(server, "SAM-H_box_infer.tar"))
    assert visible(path) == ["inference.pdiparams", "inference.pdmodel"]
    assert not list(tmp_path.rglob("escaped"))


# No room, and kills


def none_left(folder):
    return 0


def test_an_archive_that_there_is_no_room_to_unpack_is_kept_and_not_fetched_again(server, archive, tmp_path):
    server.files["SAM-H_box_infer.tar"] = archive
    sources, rooms = source(server, "SAM-H_box_infer.tar"), [len(archive), 1000]
    with pytest.raises(weights.WeightsError, match=r"1 MB more of free space are needed; .* is kept for the next try$"):
        download("it", tmp_path, sources=sources, free=lambda folder: rooms.pop(0))
    assert leftovers(tmp_path) == [".SAM-H_box_infer.tar"]
    server.statuses = [500] * 10  # the file is here, so the server is not asked
    assert weights.read(download("it", tmp_path, sources=sources)).name == "SAM-H_box"
    assert leftovers(tmp_path) == ["SAM-H_box_infer"]
    assert len(server.ranges) == 1


def test_how_much_room_is_missing_is_reported_before_anything_is_fetched(server, content, tmp_path):
    server.files["sam.pth"] = content
    with pytest.raises(weights.WeightsError, match=r"sam\.pth there, got: 1 MB more of free space") as caught:
        download("it", tmp_path, sources=source(server, "sam.pth", content), free=none_left)
    assert "Errno" not in str(caught.value)
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content


def test_room_for_what_is_lacking_is_enough(server, content, tmp_path):
    server.files["sam.pth"] = content
    (tmp_path / ".sam.pth.part").write_bytes(content[:-10])
    (tmp_path / ".sam.pth.validator").write_text(server.etag)
    path = download("it", tmp_path, sources=source(server, "sam.pth", content), free=lambda folder: 10)
    assert path.read_bytes() == content


@pytest.mark.parametrize("fails", ["the fetch", "the unpacking"])
def test_what_was_downloaded_stays_where_writing_fails_in_the_middle(server, archive, tmp_path, fails):
    """The operating system limits the size of files, as it would the space for them."""
    server.files["SAM-H_box_infer.tar"] = archive
    sources = source(server, "SAM-H_box_infer.tar")
    if fails == "the unpacking":
        (tmp_path / ".SAM-H_box_infer.tar").write_bytes(archive)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(weights.WeightsError, match=r"File too large; what was downloaded is kept"):
            download("it", tmp_path, sources=sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert visible(tmp_path) == []
    assert weights.read(download("it", tmp_path, sources=sources)).name == "SAM-H_box"
    assert leftovers(tmp_path) == ["SAM-H_box_infer"]
    assert server.ranges == ([None, "bytes=20000-"] if fails == "the fetch" else [])


def test_what_a_killed_process_left_of_the_unpacking_goes_with_the_next(server, archive, tmp_path):
    (tmp_path / ".SAM-H_box_infer.tar").write_bytes(archive)
    left = tmp_path / ".SAM-H_box_infer.unpacked"
    left.mkdir()
    (left / "inference.pdiparams").write_bytes(b"half of it")
    path = download("it", tmp_path, sources=source(server, "SAM-H_box_infer.tar"))
    assert weights.read(path).name == "SAM-H_box"
    assert leftovers(tmp_path) == ["SAM-H_box_infer"]


def test_an_archive_that_a_killed_process_left_beside_the_weights_goes_with_the_next(server, content, tmp_path):
    for name in ("sam.pth", ".sam.pth", ".sam.pth.part", ".sam.pth.validator"):
        (tmp_path / name).write_bytes(content)
    download("it", tmp_path, sources=source(server, "sam.pth", content))
    assert leftovers(tmp_path) == ["sam.pth"]


def test_a_part_beside_an_empty_validator_is_not_taken_for_the_servers_file(server, content, tmp_path):
    server.files["sam.pth"] = content
    (tmp_path / ".sam.pth.part").write_bytes(b"of another version")
    (tmp_path / ".sam.pth.validator").write_text("")
    assert download("it", tmp_path, sources=source(server, "sam.pth", content)).read_bytes() == content
    assert server.ranges == [None]


@pytest.mark.parametrize("seed", range(6))
def test_a_download_that_is_killed_at_any_moment_is_made_up_for_by_the_next(server, archive, tmp_path, seed):
    """A new version appears on the server meanwhile, every other time."""
    server.files["SAM-H_box_infer.tar"] = archive
    code = (
        "import sys\nfrom pathlib import Path\nfrom model.weights.download import Source, download\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "download('it', Path(sys.argv[2]), sources={'it': Source(sys.argv[1])})\n"
    )
    command = [sys.executable, "-c", code, f"{server.address}/SAM-H_box_infer.tar", str(tmp_path)]
    for number in range(2):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(0.01 * (seed + number))
        process.kill()
        process.communicate()
        server.etag = f'"{seed % 2 * number}"'
    path = download("it", tmp_path, sources=source(server, "SAM-H_box_infer.tar"))
    assert weights.read(path).name == "SAM-H_box"
    assert leftovers(tmp_path) == ["SAM-H_box_infer"]


def test_a_mirror_is_asked_for_the_same_file_instead(server, content, tmp_path):
    server.files["sam.pth"] = content
    elsewhere = {"it": Source("https://publisher.invalid/models/sam.pth", hashlib.sha256(content).hexdigest())}
    path = download("it", tmp_path, mirror=f"{server.address}/copies/", sources=elsewhere)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("file_name", "remedy"),
    [
        ("mobile_sam.pt", "; without a network, put {} as {}/mobile_sam.pt"),
        ("SAM-H_infer.tar", "; without a network, unpack {} as {}/SAM-H_infer"),
    ],
)
def test_without_a_network_the_file_and_where_to_put_it_are_named(tmp_path, file_name, remedy):
    url = f"http://127.0.0.1:{free_port()}/{file_name}"
    with pytest.raises(weights.WeightsError, match=re.escape(remedy.format(url, tmp_path))):
        download("it", tmp_path, attempts=1, sources={"it": Source(url, None)})


@pytest.mark.parametrize("mirror", ["ftp://mirror/", "nonsense", "http://"])
def test_a_mirror_that_is_no_web_address_is_an_error_at_once(tmp_path, mirror):
    with pytest.raises(weights.WeightsError, match="expected"):
        download("sam_vit_b", tmp_path, mirror=mirror)
    assert leftovers(tmp_path) == []


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(weights.WeightsError, match="SAM-X: expected one of mobile_sam, sam_vit_b, sam_vit_l"):
        download("SAM-X", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(server, content, tmp_path):
    server.files["sam.pth"] = content
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(weights.WeightsError, match=str(tmp_path / "file")):
        download("it", tmp_path / "file", sources=source(server, "sam.pth", content))


def test_two_at_once_fetch_the_file_once(server, content, tmp_path):
    server.files["sam.pth"] = content
    sources, paths = source(server, "sam.pth", content), []
    threads = [threading.Thread(target=lambda: paths.append(download("it", tmp_path, sources=sources))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == content for path in paths] == [True, True]
    assert len(server.ranges) == 1


def test_progress_is_shown_on_standard_error_when_asked_for(server, content, tmp_path, capsys):
    server.files["sam.pth"] = content
    download("it", tmp_path, sources=source(server, "sam.pth", content), show_progress=True)
    assert "sam.pth" in capsys.readouterr().err


def test_published_sources_are_files_on_https_and_metas_carry_checksums():
    sam2 = {f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")}
    assert set(SOURCES) == sam2 | {"SAM-H_box", "SAM-H_point", "mobile_sam", "sam_vit_b", "sam_vit_l", "sam_vit_h"}
    assert all(source.url.startswith("https://") for source in SOURCES.values())
    assert all((source.sha256 is None) == source.is_archive for source in SOURCES.values())


def test_weights_that_are_there_are_found_in_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"")
    (tmp_path / ".sam.pth.lock").mkdir()  # no lock can be taken, not even by root, whom permissions do not hold back
    tmp_path.chmod(0o555)
    try:
        assert download("it", tmp_path, sources=source(server, "sam.pth")) == tmp_path / "sam.pth"
    finally:
        tmp_path.chmod(0o755)
    assert server.ranges == []


def test_a_file_whose_publisher_gives_no_checksum_has_to_stay_the_one_that_came_first(server, archive, tmp_path):
    sources = source(server, "SAM-H_box_infer.tar")
    server.files["SAM-H_box_infer.tar"] = archive
    shutil.rmtree(download("it", tmp_path, sources=sources))
    server.files["SAM-H_box_infer.tar"] = archive + bytes(512)
    with pytest.raises(WeightsError, match=r"that was downloaded at first, got .*; delete .*sha256 if its publisher"):
        download("it", tmp_path, sources=sources)
    assert (visible(tmp_path), leftovers(tmp_path)) == ([], [])
    server.files["SAM-H_box_infer.tar"] = archive
    assert weights.read(download("it", tmp_path, sources=sources)).name == "SAM-H_box"


def test_a_detector_arrives_with_its_tokenizer_and_can_be_read(server, tmp_path):
    source_directory = directories.write_grounding_dino(tmp_path / "made" / "GroundingDINO-T_infer")
    (source_directory / "tokenizer" / "setup.py").write_text("1 / 0")
    server.files["GroundingDINO-T_infer.tar"] = tar_of(source_directory)
    sources = {"it": Source(f"{server.address}/GroundingDINO-T_infer.tar", holds="detector")}
    path = download("it", tmp_path / "weights", sources=sources)
    assert directory.read(path).name == "GroundingDINO-T"
    assert not (path / "tokenizer" / "setup.py").exists()


def test_a_detector_whose_program_does_more_than_compute_is_not_installed(server, tmp_path):
    directory = directories.write_closed(tmp_path / "made" / "PicoDet-S_infer", "PicoDet-S", ["cat"])
    program = (directory / "inference.json").read_text()
    (directory / "inference.json").write_text(program.replace('"1.sigmoid"', '"1.py_func"'))
    server.files["PicoDet-S_infer.tar"] = tar_of(directory)
    sources = {"it": Source(f"{server.address}/PicoDet-S_infer.tar", holds="detector")}
    with pytest.raises(WeightsError, match=r"expected a detector, got: .* got the operators 1\.py_func"):
        download("it", tmp_path / "weights", sources=sources)
    assert visible(tmp_path / "weights") == []
