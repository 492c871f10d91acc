"""Encodes a photo with ViT-B, once per line on stdin: a process whose environment a benchmark chooses."""

import sys

from model.build import load_encoder
from tests.benchmarks import subjects


def main() -> None:
    encoder, image = load_encoder(subjects.checkpoint(), device="cpu"), subjects.image()
    for _ in sys.stdin:
        encoder.encode(image)
        print("answered", flush=True)


if __name__ == "__main__":
    main()
