"""A worker with a stand-in encoder, which `tests.support.cluster` starts: ``main(SETTINGS, LOG, ENCODE_S)``.

``SETTINGS`` is a JSON object of environment variables. Everything but the encoder is the product's own. What an image's
first pixel says, the encoder does: see `POISON` and `TOO_LARGE`.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from backend import logs
from backend.cluster.lease import LEASE_S
from backend.composition import cluster, parts
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import LabelStudioHttp
from backend.settings import read
from model.types import Embedding
from tests.support.fakes import fake_spec

VERSION = "stand-in@00000000"
POISON = (1, 2, 3)
TOO_LARGE = (3, 2, 1)


class StandIn:
    """Takes ``encode_s`` for an image; writes a line when an encode begins and one when it ends."""

    model_version = VERSION

    def __init__(self, log: Path, encode_s: float, side: int):
        self.log, self.encode_s, self.side = log, encode_s, side
        self.is_warm = False

    def encode(self, image):
        colour = tuple(image.pixels[0, 0].tolist())
        if self.is_warm:
            self.note("begin", colour)
            if colour == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            if colour == TOO_LARGE:
                raise MemoryError("no room")
            time.sleep(self.encode_s)
        mean = image.pixels.reshape(-1, 3).mean(axis=0).astype(np.float32) / 255
        array = np.broadcast_to(mean[:, None, None], (3, self.side, self.side)).copy()
        if self.is_warm:
            self.note("end", colour)
        self.is_warm = True
        return Embedding(array, image.original_size, (48, 64), VERSION, image.other_orientation)

    def note(self, kind, colour):
        with self.log.open("a") as stream:  # short writes in append mode do not mix
            stream.write(f"{kind} {os.getpid()} {time.time():.3f} {','.join(map(str, colour))}\n")


def main(environ, log, encode_s):
    settings = read(json.loads(environ))
    logs.configure(settings.log_level)
    source = partial(parts.image_source, settings, LabelStudio(LabelStudioHttp(settings.label_studio_url, None)))
    stand_in = StandIn(Path(log), float(encode_s), int(os.environ.get("CLUSTER_SIDE", "8")))

    def load():
        time.sleep(float(os.environ.get("CLUSTER_LOAD_S", "0")))
        return stand_in

    lease_s = float(os.environ.get("CLUSTER_LEASE_S", LEASE_S))
    worker = cluster.worker(settings, fake_spec(VERSION), source, load, lease_s=lease_s)
    sys.exit(worker.run())
