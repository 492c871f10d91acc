"""The requested device is used, or refused in one sentence; CPU libraries get the instruction set that they may use."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import paddle
import pytest
from threadpoolctl import threadpool_info

from model import device as devices
from model import machine
from model.build import load_encoder
from model.errors import DeviceError
from model.machine import cpu_count

WITHOUT_GPU = not paddle.device.is_compiled_with_cuda()

AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"


def cpu_info(vendor: str, flags: str) -> str:
    """The lines of ``/proc/cpuinfo`` that the code reads."""
    lines = ["processor\t: 0", f"vendor_id\t: {vendor}", f"flags\t\t: fpu sse2 {flags}", "bugs\t\t: none"]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (cpu_info("AuthenticAMD", f"avx2 fma {AVX512}"), "7"),
        (cpu_info("AuthenticAMD", "avx2 fma avx512f"), "5"),  # a part of AVX-512 is not enough
        (cpu_info("AuthenticAMD", "avx2 fma"), "5"),
        (cpu_info("AuthenticAMD", "avx2"), None),
        (cpu_info("AuthenticAMD", ""), None),
        (cpu_info("GenuineIntel", f"avx2 fma {AVX512}"), None),  # MKL finds its own way there
        ("CPU implementer\t: 0x41\nFeatures\t: fp asimd\n", None),
        ("AuthenticAMD", None),
        ("", None),
    ],
)
def test_mkl_gets_the_widest_instruction_set_on_amd_processors_alone(info, expected):
    assert devices.mkl_instruction_set(info) == expected


def test_an_instruction_set_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "4")
    devices.prepare_cpu()
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "4"


def test_the_cpu_is_always_to_be_had():
    assert devices.resolve("cpu") == "cpu"


@pytest.mark.skipif(not WITHOUT_GPU, reason="this Paddle can use a GPU")
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert devices.resolve("auto") == "cpu"


@pytest.fixture
def gpu_build(tmp_path, monkeypatch):
    """What pip leaves of a GPU build of Paddle over which it installed the CPU's."""
    if paddle.device.is_compiled_with_cuda():
        pytest.skip("this is a GPU build")
    folder = tmp_path / "paddlepaddle_gpu-3.3.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: paddlepaddle-gpu\nVersion: 3.3.1\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_gpu_build_that_the_cpus_lies_over_is_refused_with_the_way_out(gpu_build):
    with pytest.raises(DeviceError, match="installed over paddlepaddle-gpu; pip install --force-reinstall --no-deps"):
        devices.resolve("gpu")


def test_auto_says_that_it_takes_the_cpu_because_a_gpu_build_is_hidden(gpu_build, caplog):
    assert devices.resolve("auto") == "cpu"
    assert "event=gpu_build_hidden" in caplog.text


@pytest.mark.skipif(not WITHOUT_GPU, reason="this Paddle can use a GPU")
@pytest.mark.parametrize("device", ["gpu", "gpu:0", "gpu:3"])
def test_a_gpu_that_is_missing_is_refused_with_the_way_out(device, tiny_checkpoint):
    with pytest.raises(
        DeviceError, match=f"'{device}': this paddlepaddle has no GPU support; install paddlepaddle-gpu"
    ):
        load_encoder(tiny_checkpoint, device=device)


@pytest.mark.parametrize("device", ["cuda", "gpu:x", "gpu:-1", "tpu", "", "CPU", "gpu:1.5", "cpu:0"])
def test_another_word_for_a_device_is_refused(device):
    with pytest.raises(DeviceError, match=f"expected auto, cpu or gpu:N, got '{device}'"):
        devices.resolve(device)


def test_float16_on_a_cpu_is_refused(tiny_checkpoint):
    with pytest.raises(DeviceError, match="'float16': expected a GPU, got cpu"):
        load_encoder(tiny_checkpoint, device="cpu", dtype="float16")


def test_an_unknown_dtype_is_refused_with_the_known_ones(tiny_checkpoint):
    with pytest.raises(DeviceError, match="expected one of float32, float16, bfloat16, got 'int8'"):
        load_encoder(tiny_checkpoint, device="cpu", dtype="int8")


def test_bfloat16_gives_nearly_the_embedding_of_float32(tiny_checkpoint, embedding, landscape):
    rough = load_encoder(tiny_checkpoint, device="cpu", dtype="bfloat16").encode(landscape)
    assert rough.image_embedding.dtype == np.float32
    error = np.abs(rough.image_embedding - embedding.image_embedding)
    assert 1e-6 < error.mean() < 0.02  # bfloat16 keeps 8 bits, so something differs; the embedding's own scale is 1
    assert error.max() < 0.15


def test_a_thread_pool_keeps_order_uses_its_threads_and_passes_errors_on():
    pool = devices.ThreadPool(2)
    meet = threading.Barrier(2, timeout=10)  # passes only if two calls run at the same time

    def work(item: int) -> int:
        meet.wait()
        return item * item

    assert pool.map(work, [1, 2, 3, 4]) == [1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        pool.map(lambda item: 1 // item, [1, 0])


@contextmanager
def busy_pool():
    """A pool of two threads, both of which hold an item of another caller until the block ends."""
    pool = devices.ThreadPool(2)
    began, end = threading.Barrier(3, timeout=10), threading.Event()

    def hold(_: int) -> None:
        began.wait()
        assert end.wait(10)

    with ThreadPoolExecutor(1) as other:
        holding = other.submit(pool.map, hold, [1, 2])
        began.wait()
        yield pool
        end.set()
        holding.result()


def test_a_thread_pool_does_the_work_of_a_caller_while_its_threads_are_busy_with_anothers():
    with busy_pool() as pool:
        assert pool.map(lambda item: threading.get_ident(), [1, 2, 3]) == 3 * [threading.get_ident()]


def test_the_threads_of_a_pool_end_with_it():
    pool, both, threads = devices.ThreadPool(2), threading.Barrier(2, timeout=10), set[threading.Thread]()

    def work(_: int) -> None:
        both.wait()
        threads.add(threading.current_thread())

    pool.map(work, [1, 2])
    del pool
    [thread] = threads - {threading.current_thread()}
    thread.join(10)
    assert not thread.is_alive()


needs_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or cpu_count() < 2, reason="a thread cannot be kept off one of several cores"
)


@needs_cores
def test_spread_threads_stay_off_the_callers_core():
    threads, both = devices.SpreadThreads(devices.ThreadPool(2)), threading.Barrier(2, timeout=10)
    before, caller = os.sched_getaffinity(0), threading.get_ident()

    def cores_of_thread(_: int) -> tuple[int, set[int]]:
        both.wait()
        return threading.get_ident(), os.sched_getaffinity(0)

    threads.map(cores_of_thread, [1, 2])  # starts the thread
    cores = dict(threads.map(cores_of_thread, [1, 2]))
    callers = cores.pop(caller)
    assert len(callers) == 1
    assert list(cores.values()) == [before - callers]
    assert os.sched_getaffinity(0) == before


@needs_cores
def test_a_caller_may_use_all_cores_again_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError):
        devices.SpreadThreads(devices.ThreadPool(2)).map(lambda item: 1 // item, [1, 0])
    assert os.sched_getaffinity(0) == before


@needs_cores
def test_cores_that_a_caller_is_given_meanwhile_stay():
    before, caller = os.sched_getaffinity(0), threading.get_ident()
    both, given = threading.Barrier(2, timeout=10), list[set[int]]()

    def work(_: int) -> None:
        both.wait()
        if threading.get_ident() == caller:
            given.append(before - os.sched_getaffinity(0))
            os.sched_setaffinity(0, given[0])

    try:
        devices.SpreadThreads(devices.ThreadPool(2)).map(work, [1, 2])
        assert given == [os.sched_getaffinity(0)]
    finally:
        os.sched_setaffinity(0, before)


@needs_cores
def test_a_system_that_does_not_know_a_threads_core_computes_all_the_same(monkeypatch):
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(machine, "current_core", lambda: -1)
    assert devices.SpreadThreads(devices.ThreadPool(2)).map(lambda item: item + 1, [1, 2]) == [2, 3]
    assert os.sched_getaffinity(0) == before


@needs_cores
def test_a_caller_that_finds_others_at_work_may_use_any_core():
    cores = os.sched_getaffinity(0)
    with busy_pool() as pool:
        spread = devices.SpreadThreads(pool)
        assert spread.map(lambda item: os.sched_getaffinity(0), [1, 2]) == [cores, cores]


@needs_cores
def test_a_system_that_does_not_let_threads_be_placed_computes_all_the_same(monkeypatch):
    def refuse(thread, cores):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert devices.SpreadThreads(devices.ThreadPool(2)).map(lambda item: item + 1, [1, 2]) == [2, 3]


@pytest.mark.parametrize("items", [[], [1]])
def test_a_thread_pool_of_one_core_computes_in_the_calling_thread(items):
    assert devices.ThreadPool(1).map(lambda item: threading.get_ident(), items) == len(items) * [threading.get_ident()]


def test_at_least_one_core_is_counted():
    assert cpu_count() >= 1


def test_any_thread_computes_whichever_thread_imported_paddle_first():
    script = """
import threading
def run(function):
    thread = threading.Thread(target=function); thread.start(); thread.join()
def import_paddle():
    import paddle
def compute():
    from model import device
    import paddle
    device.enter("cpu")
    print(float(paddle.matmul(paddle.ones([2, 2]), paddle.ones([2, 2])).sum()))
run(import_paddle)
run(compute)
compute()
"""
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert completed.stdout.split() == ["8.0", "8.0"]


def test_a_thread_that_begins_to_compute_leaves_the_names_of_a_network_that_is_being_built():
    thread = threading.Thread(target=devices.enter, args=("cpu",))
    with devices.building():
        names = [paddle.nn.Linear(1, 1).weight.name for _ in range(10)]
        thread.start()
        thread.join(0.2)
        names += [paddle.nn.Linear(1, 1).weight.name for _ in range(10)]
    thread.join()
    assert len(set(names)) == 20


def test_networks_may_be_built_at_once(tiny_checkpoint):
    built = []
    threads = [threading.Thread(target=lambda: built.append(load_encoder(tiny_checkpoint, "cpu"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 4


def test_numpys_products_stay_in_their_thread_once_a_network_is_prepared():
    devices.prepare_cpu()
    of_numpy = [
        each for each in threadpool_info() if each["internal_api"] == "openblas" and "numpy" in each["filepath"]
    ]
    if not of_numpy:
        pytest.skip("this NumPy has another library of matrix products")
    assert [each["num_threads"] for each in of_numpy] == [1]
