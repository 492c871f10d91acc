"""Published weights by name: fetched once, resumed where a connection broke, verified before they get their name."""

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import platformdirs
import stamina
from filelock import FileLock
from tqdm import tqdm

from model.weights import formats, paddlex
from model.weights.checkpoint import digest_of
from model.weights.errors import WeightsError

_META = "https://dl.fbaipublicfiles.com/segment_anything"
_PADDLEX = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_inference_model/paddle3.0.0"
_CHUNK = 1 << 20
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        url: of a single file, or of a tar with a PaddleX inference directory inside.
        sha256: of the file that the URL gives, None where its publisher tells none.
    """

    url: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.sha256 is not None and len(self.sha256) != 64:
            raise ValueError(f"sha256: expected 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def is_archive(self) -> bool:
        """Whether the URL gives a tar."""
        return self.file_name.endswith(".tar")

    @property
    def stored_name(self) -> str:
        """What the weights are called in the folder."""
        return self.file_name.removesuffix(".tar")


# Meta publishes six digits of each file's MD5, in the file's name. The SHA-256 are those of the files with these MD5 as
# the model registries of other projects (micro-sam among them) carry them. Nothing is published for PaddleX's archives.
SOURCES: Mapping[str, Source] = {
    "SAM-H_box": Source(f"{_PADDLEX}/SAM-H_box_infer.tar"),
    "SAM-H_point": Source(f"{_PADDLEX}/SAM-H_point_infer.tar"),
    "sam_vit_b": Source(
        f"{_META}/sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "sam_vit_l": Source(
        f"{_META}/sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "sam_vit_h": Source(
        f"{_META}/sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


def default_folder() -> Path:
    """Return the folder for weights in the user's cache."""
    return platformdirs.user_cache_path("paddle-sam") / "weights"


def downloaded(name: str, folder: Path, sources: Mapping[str, Source] = SOURCES) -> Path | None:
    """Return where these weights lie in ``folder``, None if they have not been downloaded."""
    source = sources.get(name)
    return folder / source.stored_name if source and (folder / source.stored_name).exists() else None


def download(
    name: str,
    folder: Path,
    *,
    mirror: str | None = None,
    show_progress: bool | None = None,
    attempts: int = 5,
    sources: Mapping[str, Source] = SOURCES,
) -> Path:
    """Download published weights, unless they are there already, and return their file or directory.

    A broken download leaves a hidden ``.part`` file, from which the next call goes on; what is refused leaves nothing.

    Args:
        name: one of ``sources``.
        folder: where to put them; made if it is not there.
        mirror: the address of a folder that holds the same files, instead of the publisher's.
        show_progress: a bar on standard error; None shows it on a terminal only.
        attempts: how often to try before giving up on a connection that breaks.
        sources: what can be downloaded.

    Raises:
        WeightsError: the name is unknown, the server does not give the file, or it gives another than was published.
    """
    if name not in sources:
        raise WeightsError(f"{name}: expected one of {', '.join(sources)}")
    source = sources[name]
    url = f"{mirror.rstrip('/')}/{source.file_name}" if mirror else source.url
    target = folder / source.stored_name
    part = folder / f".{source.file_name}.part"
    try:
        if target.exists():  # it got its name when it was complete; its folder may be one that cannot be written
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{source.file_name}.lock"):
            if not target.exists():  # another process may have had the lock
                _fetch(url, part, show_progress, attempts)
                _install(source, url, part, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            _discard(part)
        raise WeightsError(f"{target}: expected to write {source.file_name} there, got: {error}") from error
    return target


def _install(source: Source, url: str, part: Path, target: Path) -> None:
    """Verify what was downloaded and give it its name."""
    try:
        if source.sha256 not in (None, found := digest_of([part])):
            raise WeightsError(f"{url}: expected a file of SHA-256 {source.sha256}, got {found}")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as unpacked:
            complete = part
            if source.is_archive:
                complete = Path(unpacked, target.name)
                _unpack(url, part, complete)
            try:
                formats.read(complete)
            except WeightsError as error:
                raise WeightsError(f"{url}: expected weights of SAM, got: {error}") from error
            complete.replace(target)
    finally:
        _discard(part)


def _unpack(url: str, archive: Path, directory: Path) -> None:
    """Copy the files of an inference directory out of a tar, by their names alone: no path in it is followed."""
    directory.mkdir()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                content = tar.extractfile(member) if member.isfile() and name in paddlex.FILES else None
                if content is not None:
                    with (directory / name).open("xb") as copy:
                        shutil.copyfileobj(content, copy, _CHUNK)
    except (tarfile.TarError, EOFError, FileExistsError) as error:
        raise WeightsError(f"{url}: expected a tar of one inference directory, got: {error}") from error


def _fetch(url: str, part: Path, show_progress: bool | None, attempts: int) -> None:
    retried = stamina.retry_context(on=_is_passing, attempts=attempts, timeout=None, wait_initial=0.5, wait_max=20.0)
    try:
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
            for attempt in retried:
                with attempt:
                    _fetch_rest(client, url, part, show_progress)
    except httpx.HTTPStatusError as error:
        raise WeightsError(f"{url}: expected the file, got HTTP status {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WeightsError(f"{url}: expected the whole file, got: {error or type(error).__name__}") from error


def _is_passing(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _RETRIED
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _fetch_rest(client: httpx.Client, url: str, part: Path, show_progress: bool | None) -> None:
    """Fetch what ``part`` still lacks; start anew when the server's file is not the one that was begun."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    validator = _validator_file(part)
    if have and validator.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text(encoding="ascii")}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return  # nothing is lacking
            _discard(part)
            raise httpx.RemoteProtocolError("the file is shorter than what was downloaded of it")
        response.raise_for_status()
        resumes = response.status_code == httpx.codes.PARTIAL_CONTENT
        if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            _discard(part)
            raise httpx.RemoteProtocolError("the server sent another part of the file than was asked for")
        have = have if resumes else 0
        _remember_validator(response, validator)
        total = int(response.headers["Content-Length"]) + have if "Content-Length" in response.headers else None
        hide = None if show_progress is None else not show_progress
        with (
            part.open("r+b" if resumes else "wb") as stream,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.name[1:-5], disable=hide) as bar,
        ):
            stream.seek(have)
            for block in response.iter_raw():
                stream.write(block)
                bar.update(len(block))


def _validator_file(part: Path) -> Path:
    return part.with_suffix(".validator")


def _remember_validator(response: httpx.Response, file: Path) -> None:
    """Keep what tells this version of the server's file from others; without it a download cannot be resumed."""
    tag = response.headers.get("ETag", "")
    value = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    if value.isascii() and value:
        file.write_text(value, encoding="ascii")
    else:
        file.unlink(missing_ok=True)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)
