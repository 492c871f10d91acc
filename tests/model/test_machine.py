import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from model import machine

FAULTS_OF_THE_SECOND_BLOCK = """
import resource
from model import machine
print(machine.keep_memory())
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    number = 50_000_000
    b"x" * number
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def kept_memory(**variables):
    """What `keep_memory` returns in a fresh process, and how many page faults a second block causes."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(machine.ALLOCATOR_VARIABLES)}
    command = [sys.executable, "-c", FAULTS_OF_THE_SECOND_BLOCK]
    completed = subprocess.run(
        command, env=environ | variables, capture_output=True, text=True, timeout=120, check=True
    )
    kept_mb, faults = completed.stdout.split()
    return kept_mb == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is tuned")
def test_freed_memory_serves_the_next_image():
    kept_mb, faults = kept_memory()
    assert kept_mb
    assert faults < 1000  # of 12,000 pages


@pytest.mark.parametrize("variable", [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}])
def test_an_allocator_that_the_user_set_up_stays_as_it_is(variable):
    kept_mb, faults = kept_memory(**variable)
    assert not kept_mb
    assert faults > 10_000


HUGE_PAGES_OF_A_THREAD = """
import threading
from model import machine

def huge_mb():
    sizes = [line.split()[1] for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")]
    return sum(map(int, sizes)) / 1000

machine.share_heap()
may_allocate, has_allocated, may_end = threading.Event(), threading.Event(), threading.Event()

def allocate():
    number = 20_000_000
    b"x" * 1000  # the thread has chosen its heap
    may_allocate.wait()
    blocks = [b"x" * number for _ in range(4)]
    has_allocated.set()
    may_end.wait()

thread = threading.Thread(target=allocate)
thread.start()
machine.keep_memory()
machine.release_memory()
before = huge_mb()
may_allocate.set()
has_allocated.wait()
print(huge_mb() - before)
may_end.set()
thread.join()
"""


def has_huge_pages():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return platform.libc_ver()[0] == "glibc" and setting.is_file() and "[never]" not in setting.read_text()


@pytest.mark.skipif(not has_huge_pages(), reason="the system has no transparent huge pages")
def test_a_thread_that_was_there_before_allocates_on_huge_pages():
    environ = {name: value for name, value in os.environ.items() if not name.startswith(machine.ALLOCATOR_VARIABLES)}
    command = [sys.executable, "-c", HUGE_PAGES_OF_A_THREAD]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    assert float(result.stdout) > 70  # of 80


HUGE_PAGES_OF_PARAMETERS = """
from model.build import load_decoder, load_encoder
from model.config import SamConfig, VitConfig
from tests.support.checkpoints import random_checkpoint

def huge_mb():
    sizes = [line.split()[1] for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")]
    return sum(map(int, sizes)) / 1000

checkpoint = random_checkpoint(SamConfig("wide", VitConfig(512, 8, 8, ()), 64, decoder_mlp_dim=16384))
for load in (load_decoder, load_encoder):
    before = huge_mb()
    loaded = load(checkpoint, device="cpu")
    print(huge_mb() - before)
"""


@pytest.mark.skipif(not has_huge_pages(), reason="the system has no transparent huge pages")
def test_the_parameters_of_an_encoder_and_a_decoder_lie_on_huge_pages():
    environ = {name: value for name, value in os.environ.items() if not name.startswith(machine.ALLOCATOR_VARIABLES)}
    command = [sys.executable, "-W", "ignore", "-c", HUGE_PAGES_OF_PARAMETERS]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    of_decoder, of_encoder = map(float, result.stdout.split())
    assert of_encoder > 80  # of 101
    assert of_decoder > 55  # of 75


ADDRESS_SPACE_OF_300_MB = """
import resource
from model import machine
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
print(machine.keep_memory(), len(b"x" * 100_000_000))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is tuned")
def test_a_limit_of_address_space_leaves_the_memory_that_it_grants():
    environ = {name: value for name, value in os.environ.items() if not name.startswith(machine.ALLOCATOR_VARIABLES)}
    command = [sys.executable, "-c", ADDRESS_SPACE_OF_300_MB]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "True 100000000\n"


GROWTH_OF_PHOTOS = """
import io, re, threading
import numpy as np
from PIL import Image
from backend.metrics import Metrics
from backend.embeddings.encode import EncodeSpec, Preprocessor
from backend.types import Priority
from model import machine
from model.types import ModelInput

def resident_mb():
    return int(re.search("VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1000

machine.keep_memory()
file = io.BytesIO()
Image.fromarray(np.zeros((6000, 6000), np.uint16)).save(file, "PNG", compress_level=1)
spec = EncodeSpec("any", lambda pixels: ModelInput(pixels, pixels.shape[:2]))
preprocessor = Preprocessor(spec, Metrics())
before = resident_mb()
for _ in range(3):
    thread = threading.Thread(target=preprocessor.prepare, args=(file.getvalue(), spec.key("0" * 64), Priority.BULK))
    thread.start()
    thread.join()
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is tuned")
def test_the_heap_does_not_keep_what_large_photos_took():
    environ = {name: value for name, value in os.environ.items() if not name.startswith(machine.ALLOCATOR_VARIABLES)}
    command = [sys.executable, "-c", GROWTH_OF_PHOTOS]
    completed = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    assert float(completed.stdout) < 60  # a single photo takes 72 MB as it is in the file


class Cuda:
    """Stands in for Paddle with CUDA, whose GPU may be gone."""

    def __init__(self, *, is_gone=False):
        self.is_gone, self.freed = is_gone, 0
        self.device = self.cuda = self

    def is_compiled_with_cuda(self):
        return True

    def empty_cache(self):
        self.freed += 1
        if self.is_gone:
            raise OSError("(External) CUDA error(719), unspecified launch failure.")


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_paddle_keeps_of_a_gpu_is_given_back_and_a_gpu_that_is_gone_harms_nothing(monkeypatch, is_gone):
    paddle = Cuda(is_gone=is_gone)
    monkeypatch.setitem(sys.modules, "paddle", paddle)
    machine.release_gpu_memory()
    assert paddle.freed == 1
