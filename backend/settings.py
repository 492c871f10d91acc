"""Every setting of the service: read from a mapping of environment variables, and checked at once.

label-studio-ml's own names are kept where it has one; ours begin with ``PADDLE_SAM_``. An empty value counts as unset,
since that is what ``NAME=${NAME:-}`` in a compose file gives. A name of ours that is not known is refused: it is almost
always a slip of the pen, and the setting it was meant for would silently keep its default.
"""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from backend.shapes import ShapeKind
from backend.types import Secret

PREFIX = "PADDLE_SAM_"
MB = 1_000_000

OUTPUT_KINDS = (ShapeKind.BRUSH, ShapeKind.BITMASK, ShapeKind.POLYGON, ShapeKind.RECTANGLE, ShapeKind.ELLIPSE)
"""What an answer can be drawn as, in the order in which it is chosen when a labeling config offers several."""

_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?", re.ASCII)


class SettingsError(ValueError):
    """One or more settings cannot be used.

    Attributes:
        problems: one line each: the variable, its value (not that of a secret) and what was expected.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _url(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = urlsplit(value)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("an address such as http://localhost:8080, without credentials or a query")
    return value.rstrip("/")


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


def _redis_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = urlsplit(value.strip())
    try:
        usable = (parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port or 1) > 0) or (
            parts.scheme == "unix" and bool(parts.path)
        )
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("an address such as redis://:password@localhost:6379/0, rediss://... or unix:///path")
    return Secret(value.strip())


def _redis_prefix(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value.strip()):
        raise ValueError("up to 64 letters, digits, dots, dashes and underscores")
    return value.strip() if isinstance(value, str) else value


Url = Annotated[str, BeforeValidator(_url)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_allowed_hosts)]
Kinds = Annotated[tuple[ShapeKind, ...], BeforeValidator(_kinds)]
Device = Annotated[str, BeforeValidator(_device)]
SecretText = Annotated[Secret, BeforeValidator(_secret)]
RedisUrl = Annotated[Secret, BeforeValidator(_redis_url)]
RedisPrefix = Annotated[str, BeforeValidator(_redis_prefix)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
EmbeddingDtype = Annotated[Literal["float16", "float32"], BeforeValidator(_lower)]


def _ours(name: str) -> AliasChoices:
    return AliasChoices(PREFIX + name)


class Settings(BaseModel):
    """The settings of one process. Sizes are decimal megabytes or bytes, times seconds.

    Attributes:
        label_studio_url: where this process reaches Label Studio (from a container, not ``localhost``).
        label_studio_api_key: a personal access token or a legacy token, told apart by their form.
        basic_auth_user: with ``basic_auth_pass``: what callers must present; both or neither.
        basic_auth_pass: see ``basic_auth_user``.
        model_dir: where weights are looked for and downloaded to.
        log_level: of this program's own log.
        workers: web processes; each holds its own model, so more than one wants a shared cache.
        threads: requests that one process answers or lets wait at a time.
        host: address to listen on.
        port: port to listen on.
        weights: a preset's name or a path.
        device: ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.
        cache_dir: where embeddings are kept on disk.
        memory_cache_mb: bound of the embeddings in memory; 0 keeps none.
        disk_cache_mb: bound of the embeddings on disk; 0 keeps none.
        embedding_dtype: what embeddings are stored as.
        predict_budget_s: how long a click may wait for its embedding; below Label Studio's own 100 s.
        prefetch_tasks: how many of the project's next tasks are encoded ahead.
        max_image_bytes: a larger file is not read.
        max_image_pixels: a larger picture is not decoded.
        fetch_timeout_s: for one image's download as a whole, redirects included.
        local_files_root: a directory that this process shares with Label Studio's local storage: images in it are read
            from disk rather than through Label Studio, which then cannot check who may see them. Unset: never.
        allowed_hosts: hosts on private addresses that images may come from; Label Studio's own always may.
        output_preference: what an answer is drawn as when a labeling config offers several kinds.
        max_body_mb: a larger request is refused.
        redis_url: where web processes and workers share embeddings and work; may hold a password. Unset: everything in
            one process. The disk keeps no embeddings then.
        redis_prefix: what every name in Redis begins with; of its own for each installation that shares one.
        redis_ttl_s: for how long an embedding stays in Redis, unless it needs the room.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="ignore")

    label_studio_url: Url = Field("http://localhost:8080", validation_alias="LABEL_STUDIO_URL")
    label_studio_api_key: SecretText | None = Field(None, validation_alias="LABEL_STUDIO_API_KEY")
    basic_auth_user: str | None = Field(None, validation_alias="BASIC_AUTH_USER")
    basic_auth_pass: SecretText | None = Field(None, validation_alias="BASIC_AUTH_PASS")
    model_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("paddle-sam") / "weights", validation_alias="MODEL_DIR"
    )
    log_level: LogLevel = Field("info", validation_alias="LOG_LEVEL")
    workers: int = Field(1, ge=1, le=64, validation_alias="WORKERS")
    threads: int = Field(32, ge=1, le=1024, validation_alias="THREADS")
    host: str = Field("0.0.0.0", validation_alias="HOST")  # noqa: S104 - label-studio-ml's default: Label Studio may run in a container
    port: int = Field(9090, ge=1, le=65535, validation_alias="PORT")

    weights: str = Field("demo", validation_alias=_ours("WEIGHTS"))
    device: Device = Field("auto", validation_alias=AliasChoices(PREFIX + "DEVICE", "DEVICE"))
    cache_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("paddle-sam") / "embeddings",
        validation_alias=_ours("CACHE_DIR"),
    )
    memory_cache_mb: int = Field(512, ge=0, validation_alias=_ours("MEMORY_CACHE_MB"))
    disk_cache_mb: int = Field(4096, ge=0, validation_alias=_ours("DISK_CACHE_MB"))
    embedding_dtype: EmbeddingDtype = Field("float16", validation_alias=_ours("EMBEDDING_DTYPE"))
    predict_budget_s: float = Field(90.0, gt=0, le=3600, validation_alias=_ours("PREDICT_BUDGET_S"))
    prefetch_tasks: int = Field(3, ge=0, le=100, validation_alias=_ours("PREFETCH_TASKS"))
    max_image_bytes: int = Field(200 * MB, ge=1, validation_alias=_ours("MAX_IMAGE_BYTES"))
    max_image_pixels: int = Field(150_000_000, ge=1, validation_alias=_ours("MAX_IMAGE_PIXELS"))
    fetch_timeout_s: float = Field(30.0, gt=0, le=3600, validation_alias=_ours("FETCH_TIMEOUT_S"))
    local_files_root: Path | None = Field(None, validation_alias=_ours("LOCAL_FILES_ROOT"))
    allowed_hosts: Hosts = Field((), validation_alias=_ours("ALLOWED_HOSTS"))
    output_preference: Kinds = Field(OUTPUT_KINDS, validation_alias=_ours("OUTPUT_PREFERENCE"))
    max_body_mb: int = Field(200, ge=1, validation_alias=_ours("MAX_BODY_MB"))
    redis_url: RedisUrl | None = Field(None, validation_alias="REDIS_URL")
    redis_prefix: RedisPrefix = Field("paddle-sam", validation_alias=_ours("REDIS_PREFIX"))
    redis_ttl_s: float = Field(604_800.0, ge=1, le=31_536_000, validation_alias=_ours("REDIS_TTL_S"))

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError("BASIC_AUTH_USER and BASIC_AUTH_PASS: expected both or neither, got one of them")
        if self.local_files_root is not None and not self.local_files_root.is_dir():
            raise ValueError(f"{PREFIX}LOCAL_FILES_ROOT={self.local_files_root}: expected a directory that exists")
        return self


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings that ``environ`` (usually ``os.environ``) describes.

    Raises:
        SettingsError: values that cannot be used, and names of ours that do not exist; all of them at once.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    problems = [_unknown(name) for name in sorted(given) if name.startswith(PREFIX) and name not in NAMES]
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        # Any: pydantic types an error's context so
        problems += [_problem(detail["loc"], detail["msg"], given, detail.get("ctx", {})) for detail in error.errors()]
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _names() -> tuple[str, ...]:
    names: list[str] = []
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        names += [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]
    return tuple(names)


NAMES = _names()
"""Every variable that is read."""

SECRETS = ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "REDIS_URL")
"""Those whose value is never shown."""


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(NAMES)}"
    return f"{name}: not a setting; {hint}"


def _problem(loc: tuple[int | str, ...], message: str, given: Mapping[str, str], context: Mapping[str, Any]) -> str:
    """Return one line about one refused value. Any: what pydantic tells about an error is of many types."""
    cause = str(context["error"]) if "error" in context else message
    if not loc:
        return cause
    name = str(loc[0])
    if name not in given and name == PREFIX + "DEVICE":
        name = "DEVICE"
    shown = "***" if name in SECRETS else re.sub(r"//[^/@]*@", "//***@", given.get(name, ""))
    cause = re.sub(r"^Input should be ", "", cause).replace(
        "a valid integer, unable to parse string as an integer", "a whole number"
    )
    return f"{name}={shown}: expected {cause}"
