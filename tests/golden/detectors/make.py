"""Makes the directories beside it: detectors exported by versions of Paddle that the tests cannot install.

Run from the project's root, in an interpreter with the version of Paddle that the directory is named after:

    python3.11 -m tests.golden.detectors.make legacy_2.6.2                          # paddlepaddle 2.6.2
    FLAGS_enable_pir_api=0 python3.11 -m tests.golden.detectors.make legacy_3.0.0   # paddlepaddle 3.0.0
"""

import shutil
import sys
from pathlib import Path

from tests.golden.paddlex.make import forget_callstacks
from tests.support import detector_directories as directories


def main():
    directory = Path(__file__).parent / sys.argv[1]
    directories.write_grounding_dino(directory, network=directories.EntangledGroundingDino)
    shutil.rmtree(directory / "tokenizer")  # which `write_bert_tokenizer` writes
    (directory / "inference.pdiparams.info").unlink()  # a pickle that nothing needs
    forget_callstacks(directory / "inference.pdmodel")


if __name__ == "__main__":
    main()
