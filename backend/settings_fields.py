"""Parses and validates the values of settings; a `ValueError` says what was expected."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator

from backend.shapes import OUTPUT_KINDS, ShapeKind
from backend.types import Secret

_QUOTES = " \"'`\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb"
_HEADER = re.compile(r"^(authorization\s*:\s*)?(token|bearer)([\s:=]+|$)", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?", re.ASCII)


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """Return the validator that parses text and leaves any other value as it is."""
    return BeforeValidator(lambda value: parse(value.strip()) if isinstance(value, str) else value)


def _split(url: str, schemes: tuple[str, ...] = ("http", "https")) -> SplitResult | None:
    """Return the parts of an address; None where it has another scheme, no host or no valid port."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return None
    return parts if is_usable and not parts.fragment else None


def _url(url: str) -> str:
    parts = _split(url)
    if parts is None or parts.query or "@" in parts.netloc:
        raise ValueError("an address such as http://localhost:8080, without credentials or a query")
    return url.rstrip("/")


def _reached_url(url: str) -> str:
    """Check an address to connect to; 0.0.0.0 is only one to listen on, and images are never fetched from it."""
    host = urlsplit(_url(url)).hostname or ""
    with contextlib.suppress(ValueError):  # a name
        host = "0" if ipaddress.ip_address(host).is_unspecified else host
    if host == "0":
        raise ValueError("the address to reach Label Studio at, such as http://localhost:8080 or its machine's name")
    return _url(url)


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _allowed_hosts(text: str) -> tuple[str, ...]:
    hosts = _items(text.lower())
    for host in hosts:
        try:
            ipaddress.ip_network(host)
        except ValueError:
            name, _, port = host.rpartition(":") if ":" in host else (host, "", "")
            if not _HOST.fullmatch(name) or not (port == "" or (port.isdigit() and 0 < int(port) < 65536)):
                raise ValueError(
                    f"names, name:port pairs or networks such as minio, minio:9000 or 10.1.0.0/16, not {host!r}"
                ) from None
    return hosts


def _device(text: str) -> str:
    device = re.sub(r"^(cuda|gpu)\b", "gpu", text.lower())
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", device):
        raise ValueError("auto, cpu, gpu or gpu:N")
    return device


def _kinds(text: str) -> tuple[str, ...]:
    kinds = _items(text.lower())
    if not kinds or not set(kinds) <= set(map(str, OUTPUT_KINDS)):
        raise ValueError(f"some of {', '.join(map(str, OUTPUT_KINDS))}")
    return kinds


def unquoted(value: str) -> str:
    """Return a value without the quotation marks around all of it, which ``docker --env-file`` leaves in.

    >>> unquoted('"sam_vit_b"')
    'sam_vit_b'
    """
    bare = value.strip()
    return bare[1:-1].strip() if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else value


def _token(text: str) -> Secret:
    """Return the token in a pasted text, without quotation marks, line ends and the HTTP header around it."""
    text = "".join(" " if letter.isspace() else letter for letter in text if letter.isprintable() or letter.isspace())
    token = "".join(_HEADER.sub("", text.strip(_QUOTES)).strip(_QUOTES).split())
    if not token or not token.isascii():
        raise ValueError("a token as Label Studio shows it, of ASCII letters, digits and dots")
    return Secret(token)


def _redis_url(url: str) -> Secret:
    _check_credentials(url)
    is_socket = url.startswith("unix:///") and len(url) > len("unix:///")
    if _split(url, ("redis", "rediss")) is None and not (is_socket and "#" not in url):
        raise ValueError("an address such as redis://:password@localhost:6379/0, rediss://... or unix:///path")
    from redis import ConnectionPool  # imported here, as most installations have no Redis

    try:
        ConnectionPool.from_url(url).make_connection()  # parses the options; connects only when it is used
    except (TypeError, ValueError):
        raise ValueError("an address with options that redis-py knows, such as ?ssl_ca_certs=FILE") from None
    return Secret(url)


def _check_credentials(url: str) -> None:
    """Refuse characters that end a name or password in an address: the rest would be taken for a host."""
    _, _, rest = url.partition("://")
    credentials, at, _ = rest.rpartition("@")
    is_socket = rest.startswith("/")
    if at and not is_socket and re.search(r"[#@/?\[\]\s]|%(?![0-9a-fA-F]{2})", credentials):
        raise ValueError(
            "user and password percent-encoded, # as %23, / as %2F, @ as %40, ? as %3F, % as %25, such as "
            "redis://:p%40ss@localhost:6379/0"
        )


def _image_proxy(url: str) -> Secret:
    parts = _split(url)
    if parts is None or parts.path not in ("", "/") or parts.query:
        raise ValueError(
            "an address such as http://proxy:3128 or https://user:password@proxy:3129; percent-encode # @ / and ? in "
            "the password"
        )
    return Secret(url)


def _directory(text: str) -> Path:
    """Replace ``~`` with the home directory, which no shell does in a service file."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # no such user: keep the name as it is
        path = path.expanduser()
    if os.path.isfile(path):  # noqa: PTH113 - is_file() raises where a folder above may not be looked into
        raise ValueError("a directory, not a file")
    return path


def _existing(path: Path) -> Path:
    if not os.path.isdir(path):  # noqa: PTH112 - is_dir() raises where a folder above may not be looked into
        raise ValueError("a directory that exists")
    return path


def _redis_prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("up to 64 letters, digits, dots, dashes and underscores")
    return text


Url = Annotated[str, _parsed(_url)]
ReachedUrl = Annotated[str, _parsed(_reached_url)]
Hosts = Annotated[tuple[str, ...], _parsed(_allowed_hosts)]
Directory = Annotated[Path, _parsed(_directory)]
ExistingDirectory = Annotated[Path, _parsed(_directory), AfterValidator(_existing)]
Kinds = Annotated[tuple[ShapeKind, ...], _parsed(_kinds)]
Device = Annotated[str, _parsed(_device)]
Token = Annotated[Secret, _parsed(_token)]
SecretText = Annotated[Secret, _parsed(Secret)]
RedisUrl = Annotated[Secret, _parsed(_redis_url)]
ImageProxy = Annotated[Secret, _parsed(_image_proxy)]
RedisPrefix = Annotated[str, _parsed(_redis_prefix)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], _parsed(str.lower)]
OpenedTasks = Annotated[Literal["auto", "always", "never"], _parsed(str.lower)]
EmbeddingDtype = Annotated[Literal["float16", "float32"], _parsed(str.lower)]
