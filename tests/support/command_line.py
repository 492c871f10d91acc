"""Runs ``python -m model`` in this process, and reads what it wrote."""

import numpy as np
from click.testing import CliRunner
from PIL import Image

from model.cli import main


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)
