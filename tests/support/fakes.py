"""Stand-ins for what the tests do not want to wait for, and little real servers for what they do."""

import base64
import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from backend.embeddings.encode import EncodeSpec
from backend.embeddings.stores import EmbeddingKey
from backend.errors import ImageError, Reason
from backend.images import decode
from backend.images.fetch import Fetched, Validators
from model.types import Embedding, ModelInput

FURTHER_SHAPES = {"high_res_feat_s0": (1, 32, 32), "high_res_feat_s1": (2, 16, 16)}


def png(colour=(200, 30, 40), size_wh=(40, 30)):
    """A small image file; another colour is another content."""
    stream = io.BytesIO()
    Image.new("RGB", size_wh, colour).save(stream, "PNG")
    return stream.getvalue()


def embedding(value=0.5, shape=(4, 8, 8), original_size=(30, 40), input_size=(48, 64), model_version="fake@00000000"):
    """An embedding filled with one value."""
    return Embedding(np.full(shape, value, np.float32), original_size, input_size, model_version)


def embedding_of_several_maps(value=0.5, dtype=np.float32):
    """An embedding as SAM 2 makes them: two maps of higher resolution beside the main one."""
    further = {name: np.full(shape, value + 1, dtype) for name, shape in FURTHER_SHAPES.items()}
    sizes = (30, 40), (64, 64), "fake@00000000"
    return Embedding(np.full((4, 8, 8), value, dtype), *sizes, further_maps=further, family="sam2")


class FakeClock:
    """A clock that `advance` moves."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


def fake_spec(model_version="fake@00000000", **options):
    """How files become embeddings of a `FakeEncoder`, which takes images of any size."""
    return EncodeSpec(model_version, lambda pixels: ModelInput(pixels, pixels.shape[:2]), **options)


class FakeEncoder:
    """Keeps its calls, takes ``latency_s`` for each; the embedding holds the image's mean colour.

    Attributes:
        gate: encodes wait until it is set (it is, to begin with).
        failures: exceptions that the next calls raise, one each.
        sizes: the (height, width) of each image it was given.
        running: set while an encode is in progress.
    """

    def __init__(self, model_version="fake@00000000", latency_s=0.0):
        self.model_version, self.latency_s = model_version, latency_s
        self.gate, self.running = threading.Event(), threading.Event()
        self.gate.set()
        self.failures, self.sizes, self.colours = [], [], []
        self.at_once, self.most_at_once = 0, 0
        self._lock = threading.Lock()

    @property
    def calls(self):
        return len(self.sizes)

    def encode(self, image):
        with self._lock:
            self.sizes.append(image.pixels.shape[:2])
            self.colours.append(tuple(image.pixels[0, 0].tolist()))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.running.set()
        try:
            assert self.gate.wait(20)
            threading.Event().wait(self.latency_s)
            if self.failures:
                raise self.failures.pop(0)
            mean = image.pixels.reshape(-1, 3).mean(axis=0).astype(np.float32) / 255
            array = np.broadcast_to(mean[:, None, None], (3, 8, 8)).copy()
            return Embedding(array, image.original_size, (48, 64), self.model_version, image.other_orientation)
        finally:
            with self._lock:
                self.at_once -= 1
            self.running.clear()


@dataclass
class Request:
    """A request that a server received."""

    method: str
    path: str
    query: str
    headers: dict
    body: bytes = b""


@dataclass
class Reply:
    """A server's answer.

    Attributes:
        drip_s: seconds between single bytes, headers included; 0 sends everything at once.
        cut: close the connection after this many bytes of the body.
    """

    body: bytes = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    drip_s: float = 0.0
    cut: int | None = None


class HttpServer:
    """A real HTTP server on loopback. ``routes`` maps a path to a `Reply` or a function of the `Request`."""

    def __init__(self):
        self.routes: dict[str, Reply | Callable[[Request], Reply]] = {}
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - the names http.server asks for

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self):
        return self._server.server_address[1]

    @property
    def url(self):
        return f"http://localhost:{self.port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self):
        return [request.path for request in self.requests]

    def reply(self, request):
        """The answer to a request; subclasses decide first."""
        route = self.routes.get(request.path, Reply(b"not here", 404))
        return route(request) if callable(route) else route

    def _answer(self, handler):
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, parts.path, parts.query, headers, body)
        self.requests.append(request)
        reply = self.reply(request)
        handler.close_connection = True
        fields = {"Content-Length": str(len(reply.body)), "Connection": "close", **reply.headers}
        head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items() if v is not None)
        message = head.encode("latin-1") + b"\r\n" + (reply.body if reply.cut is None else reply.body[: reply.cut])
        try:
            if not reply.drip_s:
                handler.wfile.write(message)
                return
            for at in range(len(message)):
                if self.stopped.wait(reply.drip_s):
                    return
                handler.wfile.write(message[at : at + 1])
        except OSError:
            pass  # the client has hung up, as some tests want it to


def jwt(**claims):
    """A token of the form of a JWT, with a signature of no key."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


PERSONAL_TOKEN = jwt(token_type="refresh", exp=8102444800, iat=1700000000)
LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


class FakeLabelStudio(HttpServer):
    """Answers as Label Studio 1.23.2 does where tokens are concerned; everything but the refresh wants one.

    Attributes:
        accepted: the ``Authorization`` values that are good at the moment.
        revoked: whether the personal access token is refused.
        refreshes: how often it was exchanged.
        refresh: what the exchange answers instead, a `Reply` or a function of the `Request`.
    """

    def __init__(self):
        super().__init__()
        self.accepted, self.revoked, self.refreshes = {f"Token {LEGACY_TOKEN}"}, False, 0
        self.refresh: Reply | Callable[[Request], Reply] | None = None

    def expire(self):
        self.accepted.clear()

    def reply(self, request):
        if request.path == "/api/token/refresh":
            return self._refresh(request)
        if request.path != "/api/version" and request.headers.get("authorization") not in self.accepted:
            return Reply(b'{"detail":"Authentication credentials were not provided."}', 401)
        return super().reply(request)

    def _refresh(self, request):
        self.refreshes += 1
        if self.refresh is not None:
            return self.refresh(request) if callable(self.refresh) else self.refresh
        body = json.loads(request.body)
        if self.revoked or body.get("refresh") != PERSONAL_TOKEN:
            return Reply(b'{"detail":"Token is invalid"}', 401)
        access = jwt(token_type="access", iat=1700000000, exp=1700000300, jti=self.refreshes)
        self.accepted.add(f"Bearer {access}")
        return Reply(json.dumps({"access": access}).encode())


class FakeSource:
    """Images by address; keeps its calls.

    Attributes:
        contents: image files by address, or errors to raise.
        gate: fetches wait until it is set (it is, to begin with).
        versioned: whether contents carry a version, which shows whether they changed.
        immutable: whether answers promise that contents never change.
    """

    def __init__(self):
        self.contents, self.fetched, self.cached = {}, [], []
        self.versioned, self.immutable = False, False
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, ref, cached=None, /):
        self.fetched.append(ref.uri)
        self.cached.append(cached)
        assert self.gate.wait(20)
        content = self.contents.get(ref.uri, ImageError("not there", Reason.IMAGE_NOT_FOUND))
        if isinstance(content, Exception):
            raise content
        version = Validators(etag=decode.digest(content)) if self.versioned else Validators()
        if cached is not None and cached.is_known and cached == version:
            return None
        return Fetched(content, version, self.immutable)


def key(number=0, **fields):
    return EmbeddingKey(f"{number:064x}", **{"model_version": "SAM@1a2b3c4d", "dtype": "float32", **fields})


def same(first, second):
    return (
        list(first.maps) == list(second.maps)
        and all(np.array_equal(first.maps[name], second.maps[name]) for name in first.maps)
        and all(first.maps[name].dtype == second.maps[name].dtype for name in first.maps)
        and (first.original_size, first.input_size, first.model_version, first.other_orientation, first.family)
        == (second.original_size, second.input_size, second.model_version, second.other_orientation, second.family)
    )
