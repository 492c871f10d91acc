"""oneDNN's steps: which libraries are taken, numbers at the limits of float32, memory, threads and forks."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from model.modeling import kernels, onednn, onednn_library

LIBS = Path(paddle.__file__).parent / "libs"
needs_onednn = pytest.mark.skipif(not onednn.is_available(), reason="this Paddle carries no oneDNN")

RUN = """
import os, sys, threading, time
import numpy as np, paddle
from model.device import enter
from model.modeling import onednn
enter("cpu")

def steps(seed):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: paddle.to_tensor(rng.standard_normal(shape).astype(np.float32))
    x, rows = draw(7 + seed, 64), draw(5, 100 + seed)
    made = [onednn.linear(x, draw(64, 32), draw(32), True)]
    onednn.gelu_(x), onednn.softmax_(rows)
    image = draw(1, 4 + seed, 6, 8)
    made += [x, rows, onednn.convolve(image, draw(8, 8, 3, 3), draw(8), 1, (1, 1, 1, 1), 1, True)]
    made += [onednn.convolve(image, draw(8, 1, 3, 3), draw(8), 2, (1, 1, 1, 1), 8, False)]
    return b"".join(each.numpy().tobytes() for each in made)
"""

THREADS = """
found, start = {}, threading.Barrier(8)
def work(number):
    enter("cpu")
    start.wait()
    found[number] = [steps((number + turn) % 8) for turn in range(24)]
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
alone = [steps(seed) for seed in range(8)]
assert sorted(found) == list(range(8))
assert all(found[n][turn] == alone[(n + turn) % 8] for n in found for turn in range(24))
"""

FORK = """
before = steps(1)
def other():
    enter("cpu")
    steps(2)
thread = threading.Thread(target=other)
thread.start(), thread.join()
while os.path.exists(f"/proc/self/task/{thread.native_id}"):  # at its end a thread holds a lock of Paddle's statistics
    time.sleep(0.001)
child = os.fork()
if not child:
    os._exit(0 if steps(1) == before and steps(3) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert steps(1) == before
"""

MEMORY = """
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
def ask(first, last):
    for size in range(first, last):
        onednn.gelu_(paddle.ones([size]))
        onednn.softmax_(paddle.ones([size % 7 + 1, size]))
ask(1, 400)
before = resident_mb()
ask(400, 2400)
def other():
    enter("cpu")
    ask(1, 20)
for _ in range(100):
    thread = threading.Thread(target=other)
    thread.start(), thread.join()
grown = resident_mb() - before
assert grown < 24, grown
"""


def run(script: str, **environment: str) -> None:
    """Run a script after `RUN` in a process of its own, and expect it to end well."""
    completed = subprocess.run(
        [sys.executable, "-c", RUN + script],
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-2000:]


def test_a_folder_without_the_library_has_none(tmp_path):
    assert onednn_library.find(tmp_path) is None
    assert onednn_library.find(tmp_path / "missing") is None


def test_a_file_that_is_no_library_is_passed_over(tmp_path):
    (tmp_path / "libdnnl.so.3").write_bytes(b"not a library")
    assert onednn_library.find(tmp_path) is None


def test_another_library_of_that_name_is_passed_over(tmp_path):
    other = next(Path(np.__file__).parent.rglob("_multiarray_umath*"))
    (tmp_path / "libdnnl.so.3").symlink_to(other)
    assert onednn_library.find(tmp_path) is None


@needs_onednn
@pytest.mark.parametrize("name", [b"dnnl_reorder_primitive_desc_create", b"dnnl_memory_destroy", b"dnnl_version"])
def test_a_library_that_lacks_a_function_is_passed_over(tmp_path, name):
    (library,) = LIBS.glob("libdnnl.so*")
    content, count = re.subn(rb"\0" + name + rb"\0", b"\0" + name[::-1] + b"\0", library.read_bytes())
    assert count
    (tmp_path / library.name).write_bytes(content)
    assert onednn_library.find(tmp_path) is None


@needs_onednn
def test_the_first_of_several_that_can_be_used_is_taken(tmp_path):
    (library,) = LIBS.glob("libdnnl.so*")
    (tmp_path / "libdnnl.so.2").write_bytes(b"not a library")
    (tmp_path / "libdnnl.so.3").symlink_to(library)
    assert onednn_library.find(tmp_path) is not None


@needs_onednn
def test_what_is_not_finite_does_not_become_a_number():
    x = paddle.to_tensor(np.array([np.nan, -np.inf, np.inf, 1], np.float32))
    onednn.gelu_(x)
    assert np.isfinite(x.numpy()).tolist() == [False, False, False, True]
    rows = np.zeros((3, 128), np.float32)
    rows[0, 3], rows[1, 5] = np.nan, np.inf
    scores = paddle.to_tensor(rows)
    onednn.softmax_(scores)
    assert np.isfinite(scores.numpy().sum(axis=1)).tolist() == [False, False, True]


@needs_onednn
def test_the_largest_and_the_smallest_numbers_give_what_they_should():
    x = paddle.to_tensor(np.array([1e38, 1e-40, -1e-40, 0, -1e38], np.float32))
    onednn.gelu_(x)
    np.testing.assert_allclose(x.numpy(), [1e38, 5e-41, -5e-41, 0, 0], rtol=1e-6, atol=1e-44)
    rows = paddle.to_tensor(np.array([[1e38] * 64, [-1e38] * 64, [1e-40] * 64], np.float32))
    onednn.softmax_(rows)
    np.testing.assert_allclose(rows.numpy(), np.full((3, 64), 1 / 64), rtol=1e-6)
    row = np.zeros((1, 64), np.float32)
    row[0, 7] = 3e38
    tensor = paddle.to_tensor(row)
    onednn.softmax_(tensor)
    np.testing.assert_array_equal(tensor.numpy(), row > 0)


@needs_onednn
def test_steps_take_arrays_without_numbers():
    empty = paddle.zeros([0, 4])
    onednn.gelu_(empty)
    onednn.softmax_(empty)
    assert onednn.linear(empty, paddle.zeros([4, 5]), paddle.zeros([5]), gelu=True).shape == [0, 5]
    shapes = 1, (1, 1, 1, 1), 1, True
    output = onednn.convolve(paddle.zeros([0, 4, 6, 8]), paddle.zeros([8, 8, 3, 3]), paddle.zeros([8]), *shapes)
    assert output.shape == [0, 4, 6, 8]


@pytest.mark.parametrize("cut", [np.s_[2:5], np.s_[:, 2:9], np.s_[::2], np.s_[1:, ::3]])
def test_steps_on_a_part_of_a_tensor_leave_the_rest_alone(cut):
    values = np.random.default_rng(1).standard_normal((6, 12)).astype(np.float32)
    whole = paddle.to_tensor(values.copy())
    before = whole[cut].numpy()
    apart = kernels.gelu(paddle.to_tensor(before.copy())).numpy()
    np.testing.assert_array_equal(kernels.gelu(whole[cut].clone()).numpy(), apart)
    np.testing.assert_array_equal(whole.numpy(), values)
    weight = paddle.to_tensor(values[:, : before.shape[1]].T.copy())
    bias = paddle.ones([6])
    output = kernels.affine(whole[cut], weight, bias, then_gelu=True).numpy()
    wanted = kernels.gelu(paddle.to_tensor(before @ weight.numpy() + 1)).numpy()
    np.testing.assert_allclose(output, wanted, atol=1e-5)
    np.testing.assert_array_equal(whole.numpy(), values)


@needs_onednn
def test_eight_threads_that_begin_at_the_same_time_get_the_numbers_of_one():
    run(THREADS)


@needs_onednn
def test_a_process_that_forks_after_loading_it_computes_on_and_so_does_its_child():
    run(FORK)


@needs_onednn
def test_thousands_of_shapes_and_threads_that_end_leave_no_memory_behind():
    run(MEMORY, ONEDNN_PRIMITIVE_CACHE_CAPACITY="0")
