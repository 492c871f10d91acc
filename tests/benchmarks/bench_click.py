"""What a warm click costs beside the decoder's network, alone, with a large body and among many; and /health meanwhile.

A click alone is measured at an HTTP client, on a connection that is kept alive and on a new one. For the others the
application is called in this process, from the request's bytes to the answer's.
"""

import io
import logging
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from werkzeug.test import EnvironBuilder

from backend.composition import parts, web
from backend.protocol import rle
from backend.settings import read
from backend.web.listening import http_server
from model.build import Decoder
from model.types import Mask
from tests.benchmarks.rows import Row, limit, milliseconds, say
from tests.support.fakes import HttpServer, Reply
from tests.support.processes import serving
from tests.support.scenes import centre_click, largest, scene_file
from tests.support.wire_bodies import click, encoded, recorded, result

SMALL, LARGE = (600, 800), (3000, 4000)
ROUNDS = 100
IMAGES, THREADS, CLICKS_EACH = 16, 32, 6
FASTER_BY_THREADS = 1 / 1.6  # on two cores
SAVED_MASKS, BYTES_OF_A_MASK, DRAFTED_MASKS = 200, 100_000, 640


@dataclass
class Forward:
    """Stands in for a decoder's forward pass and adds up, thread by thread, how long it takes."""

    decoder: Decoder
    own: threading.local = field(default_factory=threading.local)
    total_ms: float = 0.0  # of all threads, exact while only one decodes

    def __post_init__(self) -> None:
        inner = self.decoder.forward

        def timed(*arguments, **options):
            start = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                took_ms = (time.perf_counter() - start) * 1000
                self.own.ms = self.ms + took_ms
                self.total_ms += took_ms

        self.decoder.forward = timed

    @property
    def ms(self) -> float:
        """What this thread has spent in it so far."""
        return getattr(self.own, "ms", 0.0)


@dataclass(frozen=True)
class Bench:
    """A service with the demo model, and clicks to send to it."""

    service: web.Service
    forward: Forward

    def ask(self, body: bytes) -> tuple[float, float]:
        """Return how long a click takes, and how much of that is the network, in milliseconds."""
        before, start = self.forward.total_ms, time.perf_counter()
        answer = self.post(body)
        took = (time.perf_counter() - start) * 1000
        assert b'"type":"brushlabels"' in answer, answer[:200]
        return took, self.forward.total_ms - before

    def post(self, body: bytes) -> bytes:
        """Return the answer to a request for predictions."""
        environ = EnvironBuilder("/predict", method="POST", content_length=len(body)).get_environ()
        environ["wsgi.input"] = io.BytesIO(body)
        return b"".join(self.service.app.wsgi_app(environ, _no_header))

    def beside(self, body: bytes) -> float:
        """Return what a click takes beside the network."""
        took, network = self.ask(body)
        return took - network

    def decoder_ms(self, body: bytes) -> float:
        """Return what a click takes in the decoder, its masks' enlarging included."""
        self.ask(body)
        return self.service.metrics.recent()[0].stages_ms["decoder"]


def _no_header(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
    return lambda part: None


@contextmanager
def bench() -> Iterator[tuple[Bench, HttpServer]]:
    """A service whose images come from a server on loopback."""
    with HttpServer() as images, tempfile.TemporaryDirectory() as folder:
        settings = read({"LABEL_STUDIO_URL": images.url, "PADDLE_SAM_CACHE_DIR": folder, "PADDLE_SAM_DEVICE": "cpu"})
        service = web.build(settings, parts.read_weights(settings))
        try:
            yield Bench(service, Forward(_decoder(service))), images
        finally:
            service.close()


def _decoder(service: web.Service) -> Decoder:
    return service.segmenter.masks.decoder_of(None).start().result().__self__


def click_on(images: HttpServer, seed: int, size: tuple[int, int], saved_masks: int = 0) -> bytes:
    """Put a scene on the server and return the body of a click on its largest object."""
    file = scene_file(seed, size, image_format="JPEG")
    path = f"/scene-{seed}-{size[1]}.jpg"
    images.routes[path] = Reply(file.data, headers={"Content-Type": "image/jpeg"})
    x, y = centre_click(file.scene, largest(file.scene))
    value = {"x": 100 * (x + 0.5) / size[1], "y": 100 * (y + 0.5) / size[0], "width": 1, "keypointlabels": ["Cat"]}
    code = [*range(100, 256)] * (BYTES_OF_A_MASK // 4 // 156)  # four characters a number
    saved = {"type": "brushlabels", "value": {"format": "rle", "rle": code}}
    task = {
        "id": seed,
        "data": {"image": path},
        "annotations": [{"id": n, "result": [saved]} for n in range(saved_masks)],
    }
    context = result(value=value, original_width=size[1], original_height=size[0])
    return encoded(click(context, tasks=[task])).replace(b", ", b",")


def warm(bench: Bench, images: HttpServer) -> Iterator[Row]:
    """A click alone, on a small and on a large photo, at an HTTP client."""
    with served(bench.service) as port:
        for size, most in ((SMALL, 3.0), (LARGE, 5.0)):
            body = click_on(images, 1, size)
            bench.ask(body)
            for keeps, connection in ((True, "kept-alive"), (False, "new")):
                name = f"warm click {size[1]}×{size[0]} beside the network, {connection} connection"
                say(f"measuring {name}")
                yield limit(name, statistics.median(at_client(bench.forward, port, body, keeps=keeps)), most, "ms")


@contextmanager
def served(service: web.Service) -> Iterator[int]:
    """Serve in a thread of this process; the value is the port."""
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        http = http_server(service.app, [listening], threads=THREADS)

        def serve() -> None:
            while not is_over.is_set():
                http.serve_once(0.1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            is_over.set()
            http.wake()
            thread.join()
            http.close()


def at_client(forward: Forward, port: int, body: bytes, *, keeps: bool) -> list[float]:
    """Return what clicks take at an HTTP client beside the network, in ms; ``keeps`` the connection, or a new one."""
    client, beside = HTTPConnection("127.0.0.1", port), []
    for _ in range(ROUNDS):
        if not keeps:
            client.close()  # it connects again by itself
        before, start = forward.total_ms, time.perf_counter()
        client.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = client.getresponse().read()
        took = (time.perf_counter() - start) * 1000
        assert b'"type":"brushlabels"' in answer, answer[:200]
        beside.append(took - (forward.total_ms - before))
    client.close()
    return beside


def with_saved_masks(bench: Bench, images: HttpServer) -> Row:
    """A click whose task carries megabytes of masks, against one without them and the reading of as many bytes."""
    empty, full = click_on(images, 2, SMALL), click_on(images, 2, SMALL, SAVED_MASKS)
    bench.ask(empty)
    say(f"measuring a click with {len(full) / 1e6:.0f} MB of saved masks")
    ours, theirs = [], []
    for _ in range(ROUNDS // 3):
        ours.append(bench.beside(full))
        start = time.perf_counter()
        io.BytesIO(bytearray(full)).read()
        theirs.append((time.perf_counter() - start) * 1000 + bench.beside(empty))
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    name = f"click with {SAVED_MASKS} saved masks, {len(full) / 1e6:.0f} MB"
    return Row(name, statistics.median(ours), statistics.median(theirs), "ms", "none, and reading it", 1.5, ratio)


def corrections(bench: Bench, images: HttpServer) -> list[Row]:
    """A click that takes a part out of a saved mask, and a click beside many, each against one without saved masks."""
    size, (x, y) = SMALL, (0.5, 0.5)
    file = scene_file(3, size, image_format="JPEG")
    images.routes["/corrections.jpg"] = Reply(file.data, headers={"Content-Type": "image/jpeg"})
    whole = np.zeros(size, np.bool_)
    whole[size[0] // 8 : -size[0] // 8, size[1] // 8 : -size[1] // 8] = True
    code = list(rle.encode(Mask.from_array(whole)))
    sizes = {"original_width": size[1], "original_height": size[0]}

    def body(is_positive: bool, masks: int) -> bytes:
        value = {"format": "rle", "rle": code, "brushlabels": ["Cat"]}
        drafted = [
            result("brushlabels", value, id=f"mask-{number:06}", from_name="brush", **sizes) for number in range(masks)
        ]
        point = {"x": 100 * x, "y": 100 * y, "width": 1, "keypointlabels": ["Cat"]}
        task = {
            "id": 3,
            "data": {"image": "/corrections.jpg"},
            "drafts": [{"id": 1, "updated_at": "2026-11-22T20:40:00Z", "result": drafted}] if masks else [],
        }
        context = result(value=point, is_positive=is_positive, id="prompt-0001", **sizes)
        return encoded(click(context, tasks=[task])).replace(b", ", b",")

    plain, rows = body(True, 0), []
    bench.ask(plain)
    for name, other, most in (
        ("a part out of a mask", body(False, 1), 1.3),
        (f"click with {DRAFTED_MASKS} drafted masks", body(True, DRAFTED_MASKS), 1.5),
    ):
        say(f"measuring {name}")
        pairs = []
        for _ in range(ROUNDS // 2):
            start = time.perf_counter()
            io.BytesIO(bytearray(other)).read()
            reading = (time.perf_counter() - start) * 1000
            pairs.append((bench.ask(other)[0], reading + bench.ask(plain)[0]))
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append(Row(name, ours, theirs, "ms", "a click, and reading it", most, ratio))
    return rows


def among_many(bench: Bench, images: HttpServer) -> list[Row]:
    """Many threads clicking on warm images: the slowest twentieth against as many decodes in turn, and the rate."""
    bodies = [click_on(images, 10 + number, SMALL) for number in range(IMAGES)]
    for body in bodies:
        bench.ask(body)
    single = statistics.median(bench.decoder_ms(body) for body in bodies * 3)
    say(f"measuring {THREADS} threads on {IMAGES} images")

    def clicks(number: int) -> list[float]:
        return [bench.ask(bodies[(number + step) % IMAGES])[0] for step in range(CLICKS_EACH)]

    alone = milliseconds(lambda: [clicks(number) for number in range(THREADS)]) / (THREADS * CLICKS_EACH)
    all_are_there = threading.Barrier(THREADS)

    def first_click(number: int) -> None:
        all_are_there.wait()  # so that each thread takes one of these
        bench.ask(bodies[number % IMAGES])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(first_click, range(THREADS)))  # a server's threads live as long as it does
        start = time.perf_counter()
        took = [time_ms for times in pool.map(clicks, range(THREADS)) for time_ms in times]
    each = (time.perf_counter() - start) * 1000 / len(took)
    slow = statistics.quantiles(took, n=20)[-1]
    return [
        Row(
            f"{THREADS} threads on {IMAGES} images, p95", slow, THREADS * single, "ms", f"{THREADS} decodes in turn",
            1.1, slow / (THREADS * single),
        ),
        Row(f"per click, {THREADS} threads", each, alone, "ms", "one thread", FASTER_BY_THREADS, each / alone),
    ]  # fmt: skip


def health_meanwhile() -> list[Row]:
    """/health and /setup of a real process while it encodes one large photo after the other."""
    setup = encoded(recorded("setup"))
    rows = []
    with (
        HttpServer() as images,
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), LABEL_STUDIO_URL=images.url) as server,
    ):
        bodies = [click_on(images, 40 + number, LARGE) for number in range(6)]
        for name, path, body in (("/health", "/health", None), ("/setup", "/setup", setup)):
            say(f"measuring {name} during encodes")
            mine = bodies[:3] if body is None else bodies[3:]
            with ThreadPoolExecutor(1) as pool:
                encodes = pool.submit(lambda mine=mine: [server.ask("/predict", body)[0] for body in mine])
                took = []
                while not encodes.done():
                    start = time.perf_counter()
                    assert server.ask(path, body)[0] == 200
                    took.append((time.perf_counter() - start) * 1000)
                    threading.Event().wait(0.01)
                assert encodes.result() == [200] * 3
            rows.append(limit(f"{name} during encodes, median", statistics.median(took), 50.0, "ms"))
            rows.append(limit(f"{name} during encodes, p95", statistics.quantiles(took, n=20)[-1], 50.0, "ms"))
    return rows


def run() -> Iterator[Row]:
    """Measure everything."""
    logging.getLogger("backend").setLevel(logging.WARNING)  # a line per click, as the service does it, but unread
    with bench() as (setup, images):
        yield from warm(setup, images)
        yield with_saved_masks(setup, images)
        yield from corrections(setup, images)
        yield from among_many(setup, images)
    yield from health_meanwhile()
