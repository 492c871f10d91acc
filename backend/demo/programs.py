"""The demo's two programs, Label Studio and this backend: their environments, and the login of the first."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from backend.demo.processes import LOCALHOST, DemoError, Program
from model import folders

USERNAME = "demo@example.com"
BACKEND_TIMEOUT_S = 3600.0  # includes the download of the chosen weights, up to 2.4 GB
LABEL_STUDIO_TIMEOUT_S = 900.0
"""The first start creates a database: about half a minute, many times that on a slow disk."""

# No other variable of the caller's environment reaches Label Studio, which also reads HOST, PORT, DEBUG, USERNAME, ...
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH")
NOT_PASSED_ON = ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "REDIS_URL")  # the demo's backend runs alone
NOWHERE = f"http://{LOCALHOST}:9"  # a proxy at the discard port, where nothing listens


class Login(msgspec.Struct, frozen=True):
    """The login of the demo's Label Studio."""

    username: str
    password: str
    token: str


def read_login(path: Path) -> Login:
    """Return the login, which the first start creates and Label Studio's database holds from then on."""
    if not path.exists():
        login = Login(USERNAME, secrets.token_urlsafe(9), secrets.token_hex(20))
        folders.write(path, msgspec.json.encode(login), mode=0o600)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Login)
    except msgspec.MsgspecError as error:
        raise DemoError(f"{path} is damaged ({error}). Remove {path.parent} to start over.") from error


def backend(command: tuple[str, ...], environ: Mapping[str, str], port: int, folder: Path) -> Program:
    """Return the backend as a program that listens on a port and logs into a folder."""
    return Program("The backend", command, environ, None, folder / "backend.log", _url(port), BACKEND_TIMEOUT_S)


def label_studio(python: Path, environ: Mapping[str, str], port: int, data: Path) -> Program:
    """Return Label Studio as a program that listens on a port and keeps its data in a folder."""
    if not os.access(python, os.X_OK):
        raise DemoError(
            f"Label Studio is not installed: there is no {python}. `make demo` installs it, and so does this command "
            "without --label-studio-python."
        )
    # absolute() and not resolve(): a virtual environment's interpreter finds its packages only through its link.
    command = (
        str(python.absolute()), "-m", "label_studio.server", "start", "--no-browser",
        "--internal-host", LOCALHOST, "--port", str(port), "--enable-legacy-api-token",
    )  # fmt: skip
    log = data.with_name("label-studio.log")
    return Program("Label Studio", command, environ, data, log, _url(port), LABEL_STUDIO_TIMEOUT_S)


def _url(port: int) -> str:
    return f"http://{LOCALHOST}:{port}/health"


def label_studio_environ(environ: Mapping[str, str], login: Login, data: Path) -> dict[str, str]:
    """Return the environment of a Label Studio that connects to a backend on this machine and to no other machine."""
    kept = {name: environ[name] for name in PASSED_ON if name in environ}
    return kept | {
        # Without this it refuses backends on loopback and private addresses.
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data.absolute()),
        "LABEL_STUDIO_USERNAME": login.username,
        "LABEL_STUDIO_PASSWORD": login.password,
        "LABEL_STUDIO_USER_TOKEN": login.token,
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # It reports errors, usage and its version, and fetches tips, unless each is switched off.
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_SENTRY_DSN": "",
        "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": f"localhost,{LOCALHOST}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",  # its warnings would be shown as the progress of its start
    }


def backend_environ(
    environ: Mapping[str, str], login: Login, port: int, label_studio_port: int, folder: Path
) -> dict[str, str]:
    """Return the caller's environment, which may set weights and device, with the demo's own settings."""
    kept = {name: value for name, value in environ.items() if name not in NOT_PASSED_ON}
    return kept | {
        "HOST": LOCALHOST,
        "PORT": str(port),
        "LABEL_STUDIO_URL": f"http://{LOCALHOST}:{label_studio_port}",
        "LABEL_STUDIO_API_KEY": login.token,
        "PADDLE_SAM_CACHE_DIR": str((folder / "embeddings").absolute()),
        "PADDLE_SAM_DECODERS_DIR": str((folder / "decoders").absolute()),
        "PYTHONUNBUFFERED": "1",
    }
