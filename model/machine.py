"""Cores and memory of this process; imports no Paddle, so that it can be used before a fork.

glibc keeps much of the memory that is freed, for the network's next image, and nothing of a large photo.
"""

import ctypes
import os
import platform
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: (1 << 31) - 1, M_ARENA_MAX: 2}
"""Settings of glibc that `keep_memory` makes: no block is mapped separately, the end of the heap is not returned before
2 GiB of it are free, and threads share two heaps, for what one has freed to serve the others."""

ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")


def keep_memory() -> bool:
    """Keep freed memory in the process for the next image; return whether that is now the case.

    The network allocates the same large blocks for every image. glibc maps each from the system and returns it, and
    the system fills it with zeros, page by page: a seventh of the time of ViT-B (see
    ``tests/benchmarks/bench_kept_memory.py``). In exchange, the process's memory stays at its peak. Nothing is changed
    where the user has configured glibc with variables that begin with `ALLOCATOR_VARIABLES`, or with another C library.
    """
    if any(name.startswith(ALLOCATOR_VARIABLES) for name in os.environ) or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(parameter, value) for parameter, value in KEPT.items()]
    return all(done)


def release_memory() -> None:
    """Return all freed memory to the system; does nothing with another C library than glibc.

    The decoder of a large photo allocates blocks that fit no later request, so the heap would grow with every such
    photo: to 1.5 instead of 0.4 GB after a few PNGs of 49 megapixels. Takes some milliseconds.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def release_gpu_memory() -> None:
    """Return the memory that Paddle keeps for later to the GPU, if there is one."""
    paddle = sys.modules.get("paddle")
    if paddle is None or not paddle.device.is_compiled_with_cuda():
        return
    with suppress(Exception):  # of a GPU that is gone; what is tried next tells
        paddle.device.cuda.empty_cache()


def cpu_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
