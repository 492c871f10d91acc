"""A handler of SIGTERM survives libraries that take it away, whichever thread loads them."""

import subprocess
import sys

import pytest

from tests.support.processes import ROOT

PROGRAM = """
import contextlib, ctypes, os, signal, threading, time
from backend.paddle_import import sigterm_guard

told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())

def load():
    with {context}:
        time.sleep(0.05)  # so that the loaders meet
        ctypes.CDLL(None).signal(int(signal.SIGTERM), None)  # what a library does: back to the default, which is to die

loaders = [threading.Thread(target=load) for _ in range(4)]
for one in loaders:
    one.start()
for one in loaders:
    one.join()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.01)
raise SystemExit(7 if told.is_set() else 8)
"""


WHILE_LOADING = """
import contextlib, ctypes, os, signal, threading, time
from backend.paddle_import import sigterm_guard

told, taken = threading.Event(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())

def load():
    with {context}:
        ctypes.CDLL(None).signal(int(signal.SIGTERM), None)
        taken.set()
        time.sleep(1)  # Paddle goes on importing for seconds

loader = threading.Thread(target=load)
loader.start()
taken.wait()
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGTERM)
loader.join()
raise SystemExit(7 if told.is_set() else 8)
"""


def ends_with(context: str, program: str = PROGRAM) -> int:
    return subprocess.run([sys.executable, "-c", program.format(context=context)], cwd=ROOT, timeout=60).returncode


def test_a_handler_is_there_again_after_several_threads_have_loaded_what_takes_it():
    assert ends_with("sigterm_guard()") == 7


def test_a_handler_is_there_while_what_takes_it_is_still_being_loaded():
    assert ends_with("sigterm_guard()", WHILE_LOADING) == 7


@pytest.mark.parametrize("program", [PROGRAM, WHILE_LOADING])
def test_without_it_the_process_would_die(program):
    assert ends_with("contextlib.nullcontext()", program) == -15
