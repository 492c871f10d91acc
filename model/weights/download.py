"""Published weights by name: fetched once, resumed where a connection broke, verified before they get their name."""

import contextlib
import errno
import logging
import math
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import tenacity
from filelock import FileLock
from tqdm import tqdm

from model import tls
from model.folders import cache_folder
from model.quiet import unlogged_requests
from model.weights import formats
from model.weights.catalogue import SOURCES, Source
from model.weights.checkpoint import digest_of
from model.weights.errors import WeightsError
from model.weights.formats import paddlex

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MB = 1_000_000


def default_folder() -> Path:
    """Return the folder for weights in the user's cache."""
    return cache_folder() / "weights"


def free_bytes(folder: Path) -> int:
    """Return how much may still be written to a folder."""
    return shutil.disk_usage(folder).free


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
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """Download published weights, unless they are there already, and return their file or directory.

    A download that is interrupted leaves a hidden file ``.NAME.part``, or ``.NAME`` once it is complete, and the next
    call resumes it. A refused one leaves nothing.

    Args:
        name: one of ``sources``.
        folder: where to put them; created if missing.
        mirror: the address of a folder with the same files, used instead of the publisher's.
        show_progress: a bar on standard error; None shows it on a terminal only.
        attempts: how often to try before giving up on a connection that breaks.
        sources: what can be downloaded.
        free: returns how many bytes may still be written to a folder.

    Raises:
        WeightsError: the name is unknown, the server has not the published file, or there is too little room.
    """
    if name not in sources:
        raise WeightsError(f"{name}: expected one of {', '.join(sources)}")
    source = sources[name]
    url = f"{mirror.rstrip('/')}/{source.file_name}" if mirror else source.url
    target, whole, part = (folder / each for each in (source.stored_name, *_hidden(source)))
    try:
        if not target.exists():  # it gets its name when it is complete; its folder may be one that cannot be written
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{whole.name}.lock"):
                if not (target.exists() or whole.exists()):  # another process may have had the lock
                    _fetch(url, part, _by_hand(source, target), show_progress, attempts, free)
                    part.replace(whole)
                    _discard(part)
                if not target.exists():
                    _install(source, url, whole, target, free)
    except OSError as error:
        kept = "; what was downloaded is kept for the next try" if whole.exists() or part.exists() else ""
        reason = error.strerror or error
        raise WeightsError(f"{target}: expected to write {source.file_name} there, got: {reason}{kept}") from error
    with contextlib.suppress(OSError):
        whole.unlink(missing_ok=True)  # of a process that was killed before it came to this
        _discard(part)
    return target


def _hidden(source: Source) -> tuple[str, str]:
    """Return the names of the complete file before it gets its name, and of an incomplete one."""
    return f".{source.file_name}", f".{source.file_name}.part"


def _install(source: Source, url: str, whole: Path, target: Path, free: Callable[[Path], int]) -> None:
    """Verify what was downloaded and give it its name; delete it if it is not what it should be.

    Raises:
        WeightsError: it is not.
        OSError: it cannot be written; it stays for the next try.
    """
    unpacked = target.with_name(f".{target.name}.unpacked")
    _remove(unpacked)  # of a process that was killed
    try:
        digest = digest_of([whole])
        if source.sha256 not in (None, digest):
            raise WeightsError(f"{url}: expected a file of SHA-256 {source.sha256}, got {digest}")
        pin = whole.with_name(f"{whole.name}.sha256")
        if source.sha256 is None and pin.exists() and (first := pin.read_text(encoding="ascii").strip()) != digest:
            raise WeightsError(
                f"{url}: expected the file of SHA-256 {first} that was downloaded at first, got {digest}; delete {pin} "
                "if its publisher has replaced it"
            )
        if source.is_archive:
            _unpack(url, whole, unpacked, free)
        complete = unpacked if source.is_archive else whole
        _check_content(source, url, complete)
        if source.sha256 is None:
            pin.write_text(f"{digest}\n", encoding="ascii")
        complete.replace(target)
    except WeightsError:
        whole.unlink()
        raise
    finally:
        _remove(unpacked)


def _check_content(source: Source, url: str, path: Path) -> None:
    """Read what was downloaded, without executing any of it.

    Raises:
        WeightsError: it is not what the source should hold.
    """
    try:
        if source.holds == "sam":
            formats.read(path)
        else:
            from model.detection import directory  # here: only detectors need its tokenizers

            directory.read(path)
    except WeightsError as error:
        expected = "weights of SAM" if source.holds == "sam" else "a detector"
        raise WeightsError(f"{url}: expected {expected}, got: {error}") from error


def _check_room(folder: Path, needed: int, free: Callable[[Path], int]) -> None:
    """Return if so many bytes may be written to a folder.

    Raises:
        OSError: they may not; it says how many are missing.
    """
    missing = needed - free(folder)
    if missing > 0:
        raise OSError(errno.ENOSPC, f"{math.ceil(missing / _MB)} MB more of free space are needed")


def _unpack(url: str, archive: Path, directory: Path, free: Callable[[Path], int]) -> None:
    """Copy the files of an inference directory, and of its tokenizer, out of a tar; no path in it is followed.

    Raises:
        WeightsError: it is no such tar.
        OSError: they cannot be written.
    """
    directory.mkdir()
    try:
        with tarfile.open(archive, "r:") as tar:
            members = [(member, name) for member in tar if member.isfile() and (name := _wanted(member.name))]
            needed = sum(member.size for member, _ in members)
            _check_room(directory.parent, needed, free)
            try:
                for member, name in members:
                    content = tar.extractfile(member)
                    assert content is not None  # it is a file
                    (directory / name).parent.mkdir(exist_ok=True)
                    with (directory / name).open("xb") as copy:
                        shutil.copyfileobj(content, copy, _CHUNK)
            except OSError as error:
                if error.errno in _FULL:  # another program has written meanwhile
                    _remove(directory)
                    _check_room(directory.parent, needed, free)
                raise
    except (tarfile.TarError, EOFError, FileExistsError) as error:
        raise WeightsError(f"{url}: expected a tar of one inference directory, got: {error}") from error


def _wanted(path: str) -> str | None:
    """Return where a tar's member is put in the directory, None if it is left out."""
    *folders, name = path.split("/")
    if folders[-1:] == [paddlex.TOKENIZER_FOLDER]:
        return f"{paddlex.TOKENIZER_FOLDER}/{name}" if name in paddlex.TOKENIZER_FILES else None
    return name if name in paddlex.FILES else None


def _by_hand(source: Source, target: Path) -> str:
    """Return what to do where the network is not there."""
    return f"without a network, {'unpack' if source.is_archive else 'put'} {source.url} as {target.absolute()}"


def _fetch(
    url: str, part: Path, by_hand: str, show_progress: bool | None, attempts: int, free: Callable[[Path], int]
) -> None:
    retried = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_passing),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(0.5, max=20.0) + tenacity.wait_random(0.0, 1.0),
        before_sleep=lambda state: logger.info("%s: attempt %d of %d broke off", url, state.attempt_number, attempts),
        reraise=True,
    )
    try:
        with (
            unlogged_requests(),
            httpx.Client(follow_redirects=True, timeout=_TIMEOUT, verify=tls.client_context()) as client,
        ):
            for attempt in retried:
                with attempt:
                    _fetch_rest(client, url, part, show_progress, free)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise WeightsError(f"{url}: expected the file, got HTTP status {status}; {by_hand}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        cause = tls.refusal(error) or error or type(error).__name__
        raise WeightsError(f"{url}: expected the whole file, got: {cause}; {by_hand}") from error
    except tls.CertificatesError as error:
        raise WeightsError(str(error)) from error


def _is_passing(error: BaseException) -> bool:
    if tls.refusal(error) is not None:
        return False
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _RETRIED
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _fetch_rest(
    client: httpx.Client, url: str, part: Path, show_progress: bool | None, free: Callable[[Path], int]
) -> None:
    """Fetch what ``part`` still lacks; start over when the server's file has changed."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    validator = _validator(part)
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
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
            raise httpx.RemoteProtocolError("the server sent another part of the file than the requested one")
        if not resumes:
            have = 0
            _begin(response, part)
        total = int(response.headers["Content-Length"]) + have if "Content-Length" in response.headers else None
        _check_room(part.parent, 0 if total is None else total - have, free)
        hide = None if show_progress is None else not show_progress
        try:
            with (
                part.open("ab") as stream,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.name[1:-5], disable=hide) as bar,
            ):
                for block in response.iter_raw():
                    stream.write(block)
                    bar.update(len(block))
        except OSError as error:
            if error.errno in _FULL and total is not None:  # another program has written meanwhile
                _check_room(part.parent, total - part.stat().st_size, free)
            raise


def _begin(response: httpx.Response, part: Path) -> None:
    """Start again; a kill at any moment leaves no bytes of one version beside the validator of another."""
    _discard(part)
    part.touch()
    tag = response.headers.get("ETag", "")
    value = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    if value.isascii() and value:
        _validator_file(part).write_text(value, encoding="ascii")


def _validator(part: Path) -> str:
    """Return the validator of this version of the server's file; without one a download cannot be resumed."""
    file = _validator_file(part)
    return file.read_text(encoding="ascii", errors="ignore").strip() if file.exists() else ""


def _validator_file(part: Path) -> Path:
    return part.with_suffix(".validator")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
