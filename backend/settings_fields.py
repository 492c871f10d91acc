"""Parses and validates the values of settings; a `ValueError` says what was expected."""

import contextlib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from backend.shapes import OUTPUT_KINDS, ShapeKind
from backend.types import Secret

_QUOTES = " \"'`\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb"
_HEADER = re.compile(r"^(authorization\s*:\s*)?(token|bearer)([\s:=]+|$)", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?", re.ASCII)


def _url(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        usable = has_host and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("an address such as http://localhost:8080, without credentials or a query")
    return value.rstrip("/")


def _reached_url(value: object) -> object:
    """Check an address to connect to; 0.0.0.0 is only one to listen on, and images are never fetched from it."""
    url = _url(value)
    if isinstance(url, str) and _is_for_listening(urlsplit(url).hostname or ""):
        raise ValueError(
            "the address that Label Studio is reached at, such as http://localhost:8080 or its machine's name"
        )
    return url


def _is_for_listening(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == "0"


def _items(value: object) -> object:
    """Split ``a, b`` into its items."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


def _allowed_hosts(value: object) -> object:
    hosts = _items(value)
    if isinstance(hosts, tuple):
        for host in hosts:
            _check_allowed_host(host)
        return tuple(host.lower() for host in hosts)
    return hosts


def _check_allowed_host(host: str) -> None:
    try:
        ipaddress.ip_network(host)
    except ValueError:
        name, _, port = host.lower().rpartition(":") if ":" in host else (host.lower(), "", "")
        if not _HOST.fullmatch(name) or not (port == "" or (port.isdigit() and 0 < int(port) < 65536)):
            raise ValueError(
                f"names, name:port pairs or networks such as minio, minio:9000 or 10.1.0.0/16, not {host!r}"
            ) from None


def _device(value: object) -> object:
    if isinstance(value, str):
        value = re.sub(r"^(cuda|gpu)\b", "gpu", value.strip().lower())
        if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", value):
            raise ValueError("auto, cpu, gpu or gpu:N")
    return value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _kinds(value: object) -> object:
    kinds = _items(_lower(value))
    if isinstance(kinds, tuple) and (not kinds or not set(kinds) <= set(map(str, OUTPUT_KINDS))):
        raise ValueError(f"some of {', '.join(map(str, OUTPUT_KINDS))}")
    return kinds


def _secret(value: object) -> object:
    return Secret(value.strip()) if isinstance(value, str) else value


def unquoted(value: str) -> str:
    """Return a value without the quotation marks around all of it, which ``docker --env-file`` leaves in.

    >>> unquoted('"sam_vit_b"')
    'sam_vit_b'
    """
    bare = value.strip()
    return bare[1:-1].strip() if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else value


def _token(value: object) -> object:
    """Return the token in a pasted text, without quotation marks, line ends and the HTTP header around it."""
    if not isinstance(value, str):
        return value
    text = "".join(" " if letter.isspace() else letter for letter in value if letter.isprintable() or letter.isspace())
    text = _HEADER.sub("", text.strip(_QUOTES))
    token = "".join(text.strip(_QUOTES).split())
    if not token or not token.isascii():
        raise ValueError("a token as Label Studio shows it, of ASCII letters, digits and dots")
    return Secret(token)


def _redis_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    url = value.strip()
    _check_credentials(url)
    try:
        parts = urlsplit(url)
        usable = (parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port or 1) > 0) or (
            parts.scheme == "unix" and bool(parts.path)
        )
    except ValueError:
        usable = False
    if not usable or parts.fragment:
        raise ValueError("an address such as redis://:password@localhost:6379/0, rediss://... or unix:///path")
    _check_options(url)
    return Secret(url)


def _check_credentials(url: str) -> None:
    """Refuse characters that end a name or password in an address: the rest would be taken for a host."""
    _, _, rest = url.partition("://")
    credentials, at, _ = rest.rpartition("@")
    if not at or rest.startswith("/"):  # a socket's path
        return
    if re.search(r"[#@/?\[\]\s]|%(?![0-9a-fA-F]{2})", credentials):
        raise ValueError(
            "user and password percent-encoded, # as %23, / as %2F, @ as %40, ? as %3F, % as %25, such as "
            "redis://:p%40ss@localhost:6379/0"
        )


def _check_options(url: str) -> None:
    from redis import ConnectionPool  # imported here, as most installations have no Redis

    try:
        ConnectionPool.from_url(url).make_connection()  # parses the options; connects only when it is used
    except (TypeError, ValueError):
        raise ValueError("an address with options that redis-py knows, such as ?ssl_ca_certs=FILE") from None


def _image_proxy(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = urlsplit(value.strip())
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        usable = usable and parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "an address such as http://proxy:3128 or https://user:password@proxy:3129; percent-encode # @ / and ? in "
            "the password"
        )
    return Secret(value.strip())


def _directory(value: object) -> object:
    """Replace ``~`` with the home directory, which no shell does in a service file."""
    if not isinstance(value, str):
        return value
    path = Path(value.strip())
    with contextlib.suppress(RuntimeError):  # no such user: keep the name as it is
        path = path.expanduser()
    if os.path.isfile(path):  # noqa: PTH113 - is_file() raises where a folder above may not be looked into
        raise ValueError("a directory, not a file")
    return path


def _existing(path: Path) -> Path:
    if not os.path.isdir(path):  # noqa: PTH112 - is_dir() raises where a folder above may not be looked into
        raise ValueError("a directory that exists")
    return path


def _redis_prefix(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value.strip()):
        raise ValueError("up to 64 letters, digits, dots, dashes and underscores")
    return value.strip() if isinstance(value, str) else value


Url = Annotated[str, BeforeValidator(_url)]
ReachedUrl = Annotated[str, BeforeValidator(_reached_url)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_allowed_hosts)]
Directory = Annotated[Path, BeforeValidator(_directory)]
ExistingDirectory = Annotated[Path, BeforeValidator(_directory), AfterValidator(_existing)]
Kinds = Annotated[tuple[ShapeKind, ...], BeforeValidator(_kinds)]
Device = Annotated[str, BeforeValidator(_device)]
Token = Annotated[Secret, BeforeValidator(_token)]
SecretText = Annotated[Secret, BeforeValidator(_secret)]
RedisUrl = Annotated[Secret, BeforeValidator(_redis_url)]
ImageProxy = Annotated[Secret, BeforeValidator(_image_proxy)]
RedisPrefix = Annotated[str, BeforeValidator(_redis_prefix)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
OpenedTasks = Annotated[Literal["auto", "always", "never"], BeforeValidator(_lower)]
EmbeddingDtype = Annotated[Literal["float16", "float32"], BeforeValidator(_lower)]
