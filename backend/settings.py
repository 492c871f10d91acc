"""Every setting of the service, read from a mapping of environment variables and validated.

A setting that label-studio-ml has too keeps its name there; other names begin with ``PADDLE_SAM_``. An empty
value counts as unset, since that is what ``NAME=${NAME:-}`` in a compose file gives. A name that is nearly one of ours
is refused: it is almost always misspelt, and the setting that was meant would silently keep its default. Other names
with our prefix belong to other programs: Kubernetes makes seven of them for a service that is called ``paddle-sam``.
"""

import difflib
import re
from collections.abc import Mapping

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from backend import settings_fields as fields
from backend.shapes import FEWEST_CORNERS, MOST_CORNERS, OUTPUT_KINDS, Detail, ShapeKind, in_order
from model import tls
from model.folders import cache_folder

PREFIX = "PADDLE_SAM_"
MB = 1_000_000
DEFAULT_BUFFER_MB = 1000
SMALL_REQUESTS_MB = 100  # memory for requests of at most 64 kB, which are not counted: as many as there are connections
SHARED = (
    "label_studio_url", "label_studio_api_key", "basic_auth_user", "basic_auth_pass", "model_dir", "log_level",
    "workers", "threads", "host", "port", "redis_url",
)  # fmt: skip
"""Settings whose variables have no prefix, as in label-studio-ml."""

ABOUT_DEMO = "the demo model is for trying things out, not for labelling photographs"
HALF_A_LOGIN = "BASIC_AUTH_USER and BASIC_AUTH_PASS: expected both or neither, got one of them"


class SettingsError(ValueError):
    """Settings cannot be used; each of ``problems`` names a variable, its value unless secret, and what is expected."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def variables(name: str) -> tuple[str, ...]:
    """Return the environment variables that a setting is read from; the first one that is set is used.

    >>> variables("port"), variables("cache_dir"), variables("device")
    (('PORT',), ('PADDLE_SAM_CACHE_DIR',), ('PADDLE_SAM_DEVICE', 'DEVICE'))
    """
    own, shared = PREFIX + name.upper(), name.upper()
    return (own, shared) if name == "device" else (shared,) if name in SHARED else (own,)


class Settings(BaseModel):
    """The settings of one process. Sizes are in decimal megabytes (``_mb``) or bytes, times in seconds (``_s``)."""

    model_config = ConfigDict(
        frozen=True,
        arbitrary_types_allowed=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(*variables(name))),
    )

    label_studio_url: fields.ReachedUrl = "http://localhost:8080"
    """Where this process reaches Label Studio; from a container, not localhost."""
    label_studio_public_url: fields.Url | None = None
    """Where browsers reach Label Studio, if that is another address: what its own LABEL_STUDIO_HOST says. Images
    with this address are fetched from LABEL_STUDIO_URL."""
    label_studio_api_key: fields.Token | None = None
    """A personal access token or a legacy token; without it, uploaded images cannot be fetched."""
    basic_auth_user: str | None = None
    """With BASIC_AUTH_PASS: what callers must present."""
    basic_auth_pass: fields.SecretText | None = None
    """See BASIC_AUTH_USER; both or neither."""
    model_dir: fields.Directory = Field(default_factory=lambda: cache_folder() / "weights")
    """Where weights are looked for and downloaded to."""
    log_level: fields.LogLevel = "info"
    """debug, info, warning or error; of this program's own log."""
    workers: int = Field(1, ge=1, le=64)
    """Web processes; each holds its own model, so more than one wants a shared cache."""
    threads: int = Field(32, ge=1, le=1024)
    """Requests that one process answers or lets wait at a time."""
    host: str = "0.0.0.0"  # noqa: S104 - label-studio-ml's default: Label Studio may run in a container
    """Address to listen on. conda sets this variable too: give 0.0.0.0 there."""
    port: int = Field(9090, ge=1, le=65535)
    """Port to listen on."""

    weights: str = "demo"
    """A model's name or a path; two joined by a comma are merged."""
    detector: str | None = None
    """A detector's name or directory; it finds typed words and those of preannotate, and its program is executed."""
    device: fields.Device = "auto"
    """auto, cpu, gpu or gpu:N."""
    cache_dir: fields.Directory = Field(default_factory=lambda: cache_folder() / "embeddings")
    """Where embeddings are kept on disk."""
    decoders_dir: fields.Directory = Field(default_factory=lambda: cache_folder() / "decoders")
    """Where the fine-tuned decoders of projects are kept; one folder for each Label Studio."""
    finetune_every: int = Field(0, ge=0)
    """After how many new annotations of a project its decoder is trained by itself; 0: only when asked to."""
    memory_cache_mb: int = Field(512, ge=0)
    """Bound of the embeddings in memory; 0: none."""
    disk_cache_mb: int = Field(4096, ge=0)
    """Bound of the embeddings on disk; 0: none."""
    embedding_dtype: fields.EmbeddingDtype = "float16"
    """What embeddings are stored as: float16 or float32."""
    predict_budget_s: float = Field(90.0, gt=0, le=3600)
    """How long a click may wait for its image and the decoder; below Label Studio's own 100."""
    retrieve_budget_s: float = Field(60.0, gt=0, le=3600)
    """How long 'Retrieve predictions' may take; below Label Studio's own 100. What is not ready in time is stored
    later, with LABEL_STUDIO_API_KEY."""
    answer_opened_tasks: fields.OpenedTasks = "auto"
    """Whether what people drew on a task becomes masks when it is opened, or asked for alone: auto is in projects
    where several tasks were asked for since the start; always, never."""
    prefetch_tasks: int = Field(3, ge=0, le=100)
    """How many of the project's next tasks are encoded ahead; needs LABEL_STUDIO_API_KEY."""
    max_image_bytes: int = Field(200 * MB, ge=1)
    """A larger file is not read."""
    max_image_pixels: int = Field(150_000_000, ge=1)
    """A larger picture is not decoded."""
    fetch_timeout_s: float = Field(30.0, gt=0, le=3600)
    """For one image's download as a whole, redirects included."""
    local_files_root: fields.ExistingDirectory | None = None
    """A directory shared with Label Studio's local storage: images in it are read from disk rather than through
    Label Studio, which then cannot check who may see them."""
    allowed_hosts: fields.Hosts = ()
    """Hosts on private addresses that images may come from, such as minio:9000, 10.1.0.0/16; Label Studio's own
    always may."""
    image_proxy: fields.ImageProxy | None = None
    """A proxy for images on public addresses, such as http://proxy:3128; never for Label Studio or the token.
    HTTP_PROXY and its like do not count for images."""
    output_preference: fields.Kinds = OUTPUT_KINDS
    """What an answer is drawn as when a labeling config offers several kinds."""
    polygon_tolerance: float | None = Field(None, ge=0)
    """Largest distance in pixels of the photo between a polygon and its mask; unset: as much as costs 0.5 % of the
    mask, 2 at most."""
    polygon_corners: int = Field(MOST_CORNERS, ge=FEWEST_CORNERS)
    """Largest number of corners of a polygon; the tolerance grows where there are more."""
    min_area: float | None = Field(None, ge=0)
    """Specks and holes of fewer pixels are left out of masks; unset: none where a mask is painted, those below 0.1 %
    of the object where a polygon is drawn."""
    max_body_mb: int = Field(200, ge=1)
    """A larger request is refused."""
    try_page: bool = True
    """Whether /try is served, a page to make masks in a browser without Label Studio."""
    buffer_mb: int | None = None
    """Memory of one process for requests that are being received, data: addresses that are waited for and image files
    that wait for the encoder, together; unset: 1000, or as much as the limits of one request and one file need."""
    redis_url: fields.RedisUrl | None = None
    """Where web processes and workers share embeddings and work, such as redis://:password@host:6379/0. Set, the
    disk keeps no embeddings; unset, everything is in one process."""
    redis_prefix: fields.RedisPrefix = "paddle-sam"
    """What every name in Redis begins with; of its own for each installation that shares one."""
    redis_ttl_s: float = Field(604_800.0, ge=1, le=31_536_000)
    """For how long an embedding stays in Redis, unless it needs the room."""

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError(HALF_A_LOGIN)
        if self.buffer_mb is not None and self.buffer_mb < self._least_buffer_mb:
            raise ValueError(
                f"{PREFIX}BUFFER_MB: expected at least {self._least_buffer_mb}: {SMALL_REQUESTS_MB} for small "
                f"requests, twice {PREFIX}MAX_BODY_MB, and {PREFIX}MAX_IMAGE_BYTES; got {self.buffer_mb}"
            )
        return self

    @property
    def detail(self) -> Detail:
        """How closely regions follow their masks, where a labeling config does not say."""
        return Detail(self.polygon_tolerance, self.polygon_corners, self.min_area)

    @property
    def output_kinds(self) -> tuple[ShapeKind, ...]:
        """The kinds of region that masks may become, the preferred ones first."""
        return in_order(self.output_preference)

    @property
    def buffer_bytes(self) -> int:
        """Memory for bodies, ``data:`` addresses and files, without `SMALL_REQUESTS_MB`."""
        total_mb = self.buffer_mb or max(DEFAULT_BUFFER_MB, self._least_buffer_mb)
        return (total_mb - SMALL_REQUESTS_MB) * MB

    @property
    def _least_buffer_mb(self) -> int:
        return SMALL_REQUESTS_MB + 2 * self.max_body_mb + -(-self.max_image_bytes // MB)


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings that ``environ`` (usually ``os.environ``) describes.

    >>> settings = read({"PORT": "9091", "PADDLE_SAM_WEIGHTS": "sam_vit_b"})
    >>> settings.port, settings.weights, settings.predict_budget_s
    (9091, 'sam_vit_b', 90.0)
    >>> read({"PORT": "http", "PADDLE_SAM_WEIGTHS": "sam_vit_b"})
    Traceback (most recent call last):
        ...
    backend.settings.SettingsError: PADDLE_SAM_WEIGTHS: not a setting; did you mean PADDLE_SAM_WEIGHTS?
    PORT=http: expected a whole number

    Raises:
        SettingsError: lists all values that cannot be used and all names that are nearly ones of ours.
    """
    given = {
        name: value if name in AS_GIVEN else fields.unquoted(value) for name, value in environ.items() if value.strip()
    }
    problems = [problem for name in sorted(given) if (problem := _misspelt(name, given[name]))]
    problems += tls.problems(given)
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        problems += [_problem(detail, given) for detail in error.errors()]
        if ("BASIC_AUTH_USER" in given) != ("BASIC_AUTH_PASS" in given) and HALF_A_LOGIN not in problems:
            problems.append(HALF_A_LOGIN)  # pydantic compares the two only where each is valid
    if problems:
        raise SettingsError(tuple(problems))
    return settings


NAMES = tuple(variable for name in Settings.model_fields for variable in variables(name))  # all variables that are read
SECRETS = ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "REDIS_URL", "PADDLE_SAM_IMAGE_PROXY")
"""Variables whose value is never shown."""


AS_GIVEN = ("BASIC_AUTH_USER", "BASIC_AUTH_PASS")
"""Variables whose quotation marks are part of the value; elsewhere they are left over from an env file and removed."""

_OURS = re.compile("paddle_?sam_", re.IGNORECASE)
_OWN_PARTS = {name.removeprefix(PREFIX): name for name in reversed(NAMES)}
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?$")
_NEAR = 0.75  # the least similarity of a misspelt name to the right one: twice the letters in common over all letters
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "float_parsing": "a number",
    "finite_number": "a number",
}
"""What was expected, by pydantic's kind of error, where its own message is for programmers."""

SHOWN_LENGTH = 200


def _misspelt(name: str, value: str) -> str:
    """Return a one-line problem with a name that is nearly one of ours; empty for ours and those of other programs."""
    prefix = _OURS.match(name)
    # Kubernetes, and Docker's links, set variables to announce a service to every program.
    is_service_link = _SERVICE_LINK.search(name) or value.startswith(("tcp://", "udp://", "sctp://"))
    if prefix is None or name in NAMES or is_service_link:
        return ""
    part = name[prefix.end() :].upper()
    near = difflib.get_close_matches(part, _OWN_PARTS, n=1, cutoff=_NEAR)
    words = set(part.split("_"))
    shortened = [own for own in NAMES if words <= set(own.split("_")) and _could_be(own, value)]
    meant = [_OWN_PARTS[match] for match in near] or shortened
    return f"{name}: not a setting; did you mean {meant[0]}?" if meant else ""


def _could_be(name: str, value: str) -> bool:
    try:
        Settings.model_validate({name: value})
    except ValidationError as error:
        return all(not detail["loc"] for detail in error.errors())  # an error of two settings together
    return True


def _problem(detail: ErrorDetails, given: Mapping[str, str]) -> str:
    cause = str(detail["ctx"]["error"]) if "error" in detail.get("ctx", {}) else detail["msg"]
    if not detail["loc"]:
        return cause
    name = str(detail["loc"][0])
    if name not in given and name == PREFIX + "DEVICE":
        name = "DEVICE"
    expected = _EXPECTED.get(detail["type"], re.sub(r"^Input should be ", "", cause))
    return f"{name}={_shown(name, given.get(name, ''))}: expected {expected}"


def _shown(name: str, value: str) -> str:
    """Return a value as a message may show it: no secrets, no credentials in an address, one line, shortened."""
    if name in SECRETS:
        return "***"
    value = "".join(letter if letter.isprintable() else "?" for letter in re.sub(r"//.*@", "//***@", value))
    return value if len(value) <= SHOWN_LENGTH else value[:SHOWN_LENGTH] + "..."
