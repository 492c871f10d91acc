"""The log: what its lines say."""

import subprocess
import sys

FAILING_ONCE = """
import stamina
from backend import logs

logs.configure("info")
failures = [ConnectionResetError("https://example.com/a.jpg?signature=secret")]

@stamina.retry(on=ConnectionResetError, attempts=2, wait_initial=0.01, wait_jitter=0.0)
def fetch():
    if failures:
        raise failures.pop()

fetch()
"""


def test_a_retry_is_told_with_its_cause_and_without_an_address_that_may_be_signed():
    done = subprocess.run([sys.executable, "-c", FAILING_ONCE], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith("WARNING backend.logs event=retry attempt=1 wait_s=0.0 cause=ConnectionResetError")
