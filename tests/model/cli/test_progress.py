"""How far a command of ``python -m model`` is: a bar in a terminal, lines elsewhere, and never on standard output."""

import io
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from model.automatic import AutomaticMaskGenerator, AutomaticSettings
from model.cli.progress import Bar, Lines, showing
from tests.reference.random_weights import photo


class Terminal(io.StringIO):
    """A stream that says of itself that people look at it."""

    def isatty(self):
        return True


class Watched(io.StringIO):
    """A stream that says when a line was written."""

    def wait_for(self, text):
        ends = time.monotonic() + 10
        while text not in self.getvalue():
            assert time.monotonic() < ends, self.getvalue()
            time.sleep(0.005)


def test_lines_say_how_many_pictures_and_points_are_done_while_nothing_happens():
    stream = Watched()
    lines = Lines(12, stream, every_s=0.01)
    lines.begin("a.jpg")
    stream.wait_for("0 of 12 pictures done; a.jpg\n")
    lines.advance(64, 1024)
    stream.wait_for("0 of 12 pictures done; a.jpg, 64 of 1024 points\n")
    lines.end()
    lines.begin("b.jpg")
    stream.wait_for("1 of 12 pictures done; b.jpg\n")
    lines.close()
    written = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == written
    assert "\r" not in written


def test_what_takes_no_time_writes_no_line():
    stream = io.StringIO()
    with showing(3, stream) as progress:
        progress.begin("a.jpg")
        progress.end()
    assert stream.getvalue() == ""


def test_a_stream_that_was_closed_is_no_error():
    stream = io.StringIO()
    lines = Lines(3, stream, every_s=0.001)
    stream.close()
    time.sleep(0.02)
    lines.close()


def test_a_bar_in_a_terminal_moves_within_a_picture():
    stream = Terminal()
    with showing(2, stream) as progress:
        assert isinstance(progress, Bar)
        progress.begin("a.jpg")
        progress.advance(512, 1024)
        time.sleep(0.11)  # what it draws at most
        progress.advance(768, 1024)
        progress.end()
        progress.begin("b.jpg")
        progress.end()
    drawn = stream.getvalue()
    assert "1 of 2 pictures" in drawn
    assert " 38%|" in drawn  # three quarters of the first of two
    assert "100%|" in drawn.rpartition("\r")[2]


def test_the_generator_reports_how_many_points_it_has_decoded(tiny_encoder, tiny_decoder):
    progress = []
    settings = AutomaticSettings(points_per_side=4, points_per_batch=10, crop_n_layers=1)
    generator = AutomaticMaskGenerator(tiny_decoder, tiny_encoder, settings)
    generator.generate(photo(60, 80), lambda count, total: progress.append((count, total)))
    assert progress[:3] == [(0, 80), (10, 80), (16, 80)]
    assert progress[-1] == (80, 80)
    assert [count for count, _ in progress] == sorted(count for count, _ in progress)


CODE = """
import sys
from model.cli import main, progress
progress.Lines.__init__.__defaults__ = (0.02,)
main(sys.argv[1:], standalone_mode=False)
"""


def test_everything_shows_lines_on_standard_error_where_output_is_piped(tmp_path):
    Image.fromarray(np.zeros((80, 120, 3), np.uint8)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", CODE, "segment", tmp_path / "a.png", "--everything", "--out", tmp_path / "out",
               "--points-per-side", "5", "--points-per-batch", "1"]  # fmt: skip
    completed = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=True)
    assert completed.stdout == f"1 of 1 pictures segmented, see {tmp_path / 'out'}\n"
    lines = [line for line in completed.stderr.splitlines() if line.startswith("0 of 1 pictures done; a.png, ")]
    assert len(lines) > 1
    assert lines[-1].endswith(" of 25 points")
