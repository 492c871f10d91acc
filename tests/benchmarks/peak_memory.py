"""Loads a model in a fresh process and prints the most memory it held, in bytes.

Usage: ``python -m tests.benchmarks.peak_memory PATH WORK``

WORK is ``load`` for both halves of the model, or ``answer`` to encode a photo and decode a box as well.
"""

import resource
import subprocess
import sys
from pathlib import Path


def main(path: str, work: str) -> None:
    """Do the work and print the peak, in bytes."""
    from model import weights
    from model.build import load_decoder, load_encoder
    from model.types import Prompt
    from tests.reference.random_weights import photo

    checkpoint = weights.read(path)
    encoder, decoder = load_encoder(checkpoint, device="cpu"), load_decoder(checkpoint, device="cpu")
    if work == "answer":
        decoder.decode(encoder.encode(photo(600, 800)), Prompt(box=[100, 100, 400, 400]))
    print(own_peak())


def own_peak() -> int:
    """The most resident memory of this program, in bytes.

    ``ru_maxrss`` survives an exec: of a child it would tell its parent's size where that was larger.
    """
    if not Path("/proc/self/status").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak_of("self")


def peak_of(pid: int | str) -> int:
    """The most resident memory of a process on Linux so far, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def measure(path: Path, work: str) -> int:
    """Return the peak resident memory, in bytes, of a fresh process that does this."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.peak_memory", str(path), work]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(completed.stdout.split()[-1])


if __name__ == "__main__":
    main(*sys.argv[1:])
