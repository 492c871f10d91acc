"""Chooses the device that the network runs on, and configures the CPU's math library."""

import importlib.metadata
import logging
import os
import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

import paddle
from threadpoolctl import ThreadpoolController

from model.errors import DeviceError
from model.machine import core_of_its_own

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

NO_GPU_BUILD = "this paddlepaddle has no GPU support; install paddlepaddle-gpu as requirements-gpu.txt says, or use cpu"
HIDDEN = (
    "the CPU's paddlepaddle was installed over paddlepaddle-gpu; pip install --force-reinstall --no-deps "
    "paddlepaddle-gpu, from Paddle's own index, puts it back"
)

NAMES = threading.RLock()
"""Guards how Paddle counts names; see `building`."""

DTYPES = ("float32", "float16", "bfloat16")


def resolve(device: str) -> str:
    """Return the device to use in Paddle's notation, ``cpu`` or ``gpu:N``.

    Args:
        device: ``auto`` (the first GPU if there is one), ``cpu``, ``gpu`` or ``gpu:N``.

    Raises:
        DeviceError: another value, or a GPU that does not exist.
    """
    has_cuda = paddle.device.is_compiled_with_cuda()
    count = paddle.device.cuda.device_count() if has_cuda else 0
    name, _, index = device.partition(":")
    if device == "auto":
        if not has_cuda and _is_gpu_build_hidden():
            logger.warning("event=gpu_build_hidden device=cpu detail=%r", HIDDEN)
        return "gpu:0" if count else "cpu"
    if device == "cpu":
        return "cpu"
    if name != "gpu" or (index and not index.isdigit()):
        raise DeviceError(f"device: expected auto, cpu or gpu:N, got {device!r}")
    if not has_cuda:
        raise DeviceError(f"device {device!r}: {HIDDEN if _is_gpu_build_hidden() else NO_GPU_BUILD}")
    if int(index or 0) >= count:
        raise DeviceError(f"device {device!r}: expected one of the {count} GPUs that Paddle sees here")
    return f"gpu:{int(index or 0)}"


def _is_gpu_build_hidden() -> bool:
    """Whether both builds of Paddle are installed; they own the same files, and pip does not detect it."""
    return any(importlib.metadata.distributions(name="paddlepaddle-gpu"))


def check_dtype(dtype: str, device: str) -> str:
    """Return ``dtype`` if the encoder can run in it on ``device`` (as `resolve` gives it).

    Raises:
        DeviceError: an unknown dtype, or float16 on a CPU, for which Paddle has no kernels.
    """
    if dtype not in DTYPES:
        raise DeviceError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "float16" and device == "cpu":
        raise DeviceError("dtype 'float16': expected a GPU, got cpu; use float32 there")
    return dtype


def enter(device: str) -> None:
    """Set the calling thread's device, and disable gradients in it; Paddle keeps both settings per thread.

    A thread other than the one that first imported Paddle would otherwise record graphs instead of computing. The first
    time this waits for networks that are being built: see `building`.
    """
    if not paddle.in_dynamic_mode():
        with NAMES:
            paddle.disable_static()
    paddle.set_device(device)


def building() -> AbstractContextManager[object]:
    """Return a context to enter while a network is built.

    Paddle counts the names of parameters for the whole process, without a lock, and restarts the count when a thread
    starts to compute. Two networks built at the same time may then get the same name, which Paddle refuses.
    """
    return NAMES


def prepare_cpu() -> None:
    """Let Paddle's matrix product use the processor's widest instruction set, and NumPy's the calling thread alone.

    NumPy's products in this process are of a prompt's few tokens, and threads of OpenBLAS wait for each other in a
    spin: 16 boxes took 3.1 in place of 1.0 s of processor time. Those of other code in the process take one core too.

    Paddle ships a 2019 MKL that uses its slowest code on processors not made by Intel: 42 instead of 182
    GFLOP/s per core, measured on an AMD EPYC with AVX-512. The variable names the instruction set outright; it is
    read at the first product, so it must be set before that, and it stays as it is where the user set it.
    """
    _one_thread_in_openblas()
    instruction_set = mkl_instruction_set(_cpu_info())
    if instruction_set is not None:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", instruction_set)


@lru_cache
def _one_thread_in_openblas() -> None:
    ThreadpoolController().select(internal_api="openblas").limit(limits=1)


def mkl_instruction_set(cpu_info: str) -> str | None:
    """Return MKL's number for the widest instruction set of an AMD processor, None for any other or an unknown one."""
    if "AuthenticAMD" not in cpu_info:
        return None
    flags = set(next((line for line in cpu_info.splitlines() if line.startswith("flags")), "").split())
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"} <= flags:
        return "7"
    return "5" if {"avx2", "fma"} <= flags else None


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if platform.system() == "Linux" and path.is_file() else ""


class ThreadPool:
    """Maps over parts of the work on threads (see `model.modeling.image_encoder.Parallel`), the caller's among them."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._lock, self._calls, self._threads = threading.Lock(), 0, list[int]()
        self._pool = ThreadPoolExecutor(
            max(1, parts - 1), thread_name_prefix="model", initializer=_begin, initargs=(self._threads,)
        )

    def map(self, function: Callable[[T], R], items: Sequence[T], /, *, apart: bool = False) -> list[R]:
        """Return ``[function(item) for item in items]``; a thread takes the next item when it is done with one.

        Threads that are busy with another call's items are not waited for. See `SpreadThreads` for ``apart``.
        """
        results: list[R | None] = [None] * len(items)
        left = iter(range(len(items)))  # next() of it is atomic

        def work() -> None:
            for index in left:
                results[index] = function(items[index])

        helpers = [self._pool.submit(work) for _ in range(min(self.parts, len(items)) - 1)]
        with self._lock:
            self._calls += 1
            is_alone = self._calls == 1
        try:
            with core_of_its_own(self._threads) if apart and helpers and is_alone else nullcontext():
                work()
        finally:
            with self._lock:
                self._calls -= 1
            running = [helper for helper in helpers if not helper.cancel()]
            wait(running)
        for helper in running:
            helper.result()
        return cast(list[R], results)


def _begin(threads: list[int]) -> None:
    """Begin a thread of a pool, whose end it would prevent if it knew the pool itself."""
    enter("cpu")
    threads.append(threading.get_native_id())


class SpreadThreads:
    """Maps as a `ThreadPool` does, the caller and its threads on different cores, for steps of a few milliseconds.

    Where several threads map at the same time, all cores are in use, and the system places them. What is mapped must
    not start threads of its own: they would inherit the cores of the thread that starts them.
    """

    def __init__(self, pool: ThreadPool) -> None:
        self.parts, self._pool = pool.parts, pool

    def map(self, function: Callable[[T], R], items: Sequence[T], /) -> list[R]:
        """See `ThreadPool.map`."""
        return self._pool.map(function, items, apart=True)
