"""What something costs: processor time of this thread, which other work does not lengthen, and memory."""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MB = 1_000_000


@contextmanager
def at_most(cpu_s: float, of_process: bool = False) -> Iterator[None]:
    """Fail where what is done inside takes this thread, or all threads together, longer.

    The garbage collector passes over what other tests have left in the process, as in a process of its own. It goes on
    to do so: `gc.unfreeze` would thaw all that was imported, too, which takes a second to look through.
    """
    clock = time.process_time if of_process else time.thread_time
    gc.collect()
    gc.freeze()
    start = clock()
    yield
    took = clock() - start
    assert took <= cpu_s, f"expected at most {cpu_s} s of processor time, took {took:.2f} s"


@contextmanager
def memory_of_at_most(megabytes: float) -> Iterator[Callable[[], int]]:
    """Fail where Python's objects and NumPy's arrays take more memory inside than this at any time.

    Gives a function that tells how many bytes of what was made since then are still held.
    """
    tracemalloc.start(1)
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
        peak = tracemalloc.get_traced_memory()[1] / MB
    finally:
        tracemalloc.stop()
    assert peak <= megabytes, f"expected at most {megabytes} MB, took {peak:.0f} MB"
