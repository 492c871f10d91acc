"""Cores and memory of this process; imports no Paddle, so that it can be used before a fork.

glibc keeps much of the memory that is freed, for the network's next image, on huge pages, and nothing of a large photo.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: (1 << 31) - 1}
"""Settings of glibc that `keep_memory` makes: no block is mapped separately, and the end of the heap is not returned
before 2 GiB of it are free."""

HUGE_BYTES = 1 << 30
"""How much of the heap may lie on huge pages. It is address space; only what is used takes memory."""

MADV_HUGEPAGE = 14
ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")
_is_kept = False


def share_heap() -> bool:
    """Let all threads that start from now on allocate from one heap; return whether they do.

    glibc gives threads heaps of their own, which `keep_memory` cannot prepare. Nothing is changed where the user has
    configured glibc with variables that begin with `ALLOCATOR_VARIABLES`, or with another C library.
    """
    if any(name.startswith(ALLOCATOR_VARIABLES) for name in os.environ) or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1))


def keep_memory() -> bool:
    """Keep freed memory in the process for the next image, on huge pages; return whether that is now the case.

    The network allocates the same large blocks for every image. glibc maps each from the system and returns it, and
    the system fills it with zeros, page by page: a seventh of the time of ViT-B. Huge pages save most look-ups of
    addresses, which are slow in virtual machines (see ``tests/benchmarks/bench_kept_memory.py``). In exchange, the
    process's memory stays at its peak. Nothing is changed where `share_heap` changes nothing.
    """
    global _is_kept
    if not share_heap():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(parameter, value) for parameter, value in KEPT.items()]
    _is_kept = all(done)
    _use_huge_pages()
    return _is_kept


def _use_huge_pages() -> None:
    """Ask for huge pages in the next `HUGE_BYTES` of the heap, which one block of that size makes glibc add to it."""
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if (block := libc.malloc(HUGE_BYTES)) is None:
        return  # the system grants no more address space
    page = os.sysconf("SC_PAGESIZE")
    start = -(-block // page) * page
    libc.madvise(start, (block + HUGE_BYTES - start) // page * page, MADV_HUGEPAGE)
    libc.free(block)


def release_memory() -> None:
    """Return all freed memory to the system; does nothing with another C library than glibc.

    The decoder of a large photo allocates blocks that fit no later request, so the heap would grow with every such
    photo: to 1.5 instead of 0.4 GB after a few PNGs of 49 megapixels. Takes some milliseconds.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
        if _is_kept:
            _use_huge_pages()


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


@contextmanager
def core_of_its_own(others: Iterable[int]) -> Iterator[None]:
    """Keep the calling thread on its core while the block runs, and others on the other cores until further notice.

    Linux may wake a thread on the core of the one that wakes it, while another core sleeps: measured on a virtual
    machine, two threads shared a core after a pause of 0.1 s, and a decode took 37 in place of 22 ms. Nothing is
    changed where there is one core, or where the system does not let it be changed.

    Args:
        others: native identifiers of threads of this process.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    own = {current_core()} if len(cores) > 1 else cores
    if not own < cores:  # one core, or the system does not know which one this is
        yield
        return
    try:
        with suppress(OSError):  # the system forbids it, or a thread has ended
            os.sched_setaffinity(0, own)
            for thread in others:
                os.sched_setaffinity(thread, cores - own)
        yield
    finally:
        with suppress(OSError):
            if os.sched_getaffinity(0) == own:  # not where the process was given other cores meanwhile
                os.sched_setaffinity(0, cores)


def current_core() -> int:
    """Return the number of the core that the calling thread is on, on Linux; negative where the system has none."""
    return _sched_getcpu()()


@cache
def _sched_getcpu() -> Callable[[], int]:
    function: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu  # keeps the GIL, as it is short
    return function
