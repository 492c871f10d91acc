"""Files of weights that tests read: the golden PaddleX directories, unpacked."""

import gzip
import shutil
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "paddlex"


def golden_directory(name: str, target: Path) -> Path:
    """Copy a golden inference directory to ``target``, its program unpacked."""
    target.mkdir(parents=True)
    for file in sorted((GOLDEN / name).iterdir()):
        if file.suffix == ".gz":
            (target / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        else:
            shutil.copy(file, target / file.name)
    return target
