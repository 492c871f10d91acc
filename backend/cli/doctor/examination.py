"""Checks an installation from the machine it runs on, and reports each problem with its fix.

Each check is a function that returns or yields findings; none raises, and none changes anything.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from backend.cli.doctor import project
from backend.cli.doctor.findings import Finding, Level
from backend.errors import BackendError, Reason
from backend.images.fetch import ImageSource
from backend.label_studio.client import LabelStudio
from backend.label_studio.tokens import NEW_API_KEY, NO_API_KEY, TokenKind
from backend.settings import ABOUT_DEMO, Settings

GUARDS_FROM = (1, 23, 1)
"""The first release of Label Studio that refuses private addresses; see tests/e2e/test_local_backends.py."""


def examine(
    settings: Settings,
    label_studio: LabelStudio,
    images: ImageSource,
    project_id: int | None,
    weights: Callable[[], str],
) -> Iterator[Finding]:
    """Yield findings, the basic ones first, and those about a project's model, labeling config and first image.

    ``weights`` describes the configured weights; it raises a `ValueError` if they cannot be used.
    """
    yield _weights(settings, weights)
    release, outage = _release(settings, label_studio)
    if outage is not None:
        yield outage
    else:
        yield Finding(Level.OK, "Label Studio", f"{release or 'unknown release'} at {settings.label_studio_url}")
        yield _api_key(label_studio)
    yield from _connection(settings, release)
    if outage is None and project_id is not None:
        yield from project.examine(settings, label_studio, images, project_id)


def _weights(settings: Settings, weights: Callable[[], str]) -> Finding:
    try:
        text = weights()
    except (ValueError, OSError) as error:
        fix = "set PADDLE_SAM_WEIGHTS to a model's name or a path; "
        fix += "`python -m model download NAME` fetches the published ones"
        return Finding(Level.PROBLEM, "weights", str(error), fix)
    if settings.weights == "demo":
        fix = "python -m model download mobile_sam, then PADDLE_SAM_WEIGHTS=mobile_sam; "
        fix += "or PaddleX's, PADDLE_SAM_WEIGHTS=SAM-H_box,SAM-H_point, 2.4 GB each"
        return Finding(Level.HINT, "weights", f"{text}; {ABOUT_DEMO}", fix)
    return Finding(Level.OK, "weights", text)


def _release(settings: Settings, label_studio: LabelStudio) -> tuple[str, Finding | None]:
    """Return Label Studio's release, empty if it is unknown, and the problem if it cannot be reached."""
    try:
        return label_studio.version(), None
    except BackendError as error:
        url, fix = settings.label_studio_url, error.reason.remedy
        if error.reason is not Reason.UNTRUSTED_CERTIFICATE:
            fix = (
                f"set LABEL_STUDIO_URL to the address at which this machine reaches Label Studio, now {url}, "
                "and start Label Studio if it does not run"
            )
            if _is_loopback(urlsplit(url).hostname or ""):
                fix += "; inside a container localhost is the container itself: use the service's or host's name"
        return "", Finding(Level.PROBLEM, "Label Studio", str(error), fix)


def _api_key(label_studio: LabelStudio) -> Finding:
    kind = label_studio.http.token_kind
    if kind is TokenKind.NONE:
        return Finding(Level.PROBLEM, "API key", NO_API_KEY, NEW_API_KEY)
    try:
        user = label_studio.user()
    except BackendError as error:
        fix = NEW_API_KEY
        if kind is TokenKind.LEGACY and "no such token" not in str(error):
            fix += "; or have an administrator enable legacy tokens under Organization > API Tokens Settings"
        return Finding(Level.PROBLEM, "API key", f"{error} ({kind.value})", fix)
    if kind is TokenKind.ACCESS:
        text = f"{kind.value} of {user}, which expires after minutes"
        return Finding(Level.PROBLEM, "API key", text, NEW_API_KEY)
    return Finding(Level.OK, "API key", f"{kind.value} of {user}")


def _connection(settings: Settings, release: str) -> Iterator[Finding]:
    """Yield hints about a backend on a private address and about access; the connection cannot be checked here."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127.0.0.1"
    if ipaddress.ip_address(address).is_private:
        text = f"this machine's address {address} is private; {_guard(release)}"
        fix = "start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false, or with ML_BLOCK_LOCAL_IP=false and "
        fix += "SSRF_PROTECTION_ENABLED=false; ML_BLOCK_LOCAL_IP=false alone is not enough"
        yield Finding(Level.HINT, "reserved address", text, fix)
    if settings.basic_auth_user is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
        text = f"any program that reaches {settings.host}:{settings.port} may use this backend"
        fix = "set BASIC_AUTH_USER and BASIC_AUTH_PASS, and the same two in Label Studio's model connection"
        yield Finding(Level.HINT, "access", text, fix)


def _guard(release: str) -> str:
    """Return how this release of Label Studio treats a backend on a private address."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if numbers is not None and tuple(int(number or 0) for number in numbers.groups()) < GUARDS_FROM:
        return (
            f"Label Studio {release} reaches such a backend, and from 1.23.1 on it does not: after an upgrade no click "
            "arrives any more, without an error message"
        )
    studio = f"Label Studio {release}" if numbers is not None else "Label Studio from 1.23.1 on"
    return (
        f"{studio} answers 403 when such a backend is connected, and does not reach one that was connected before an "
        "upgrade: no click arrives, without an error message"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
