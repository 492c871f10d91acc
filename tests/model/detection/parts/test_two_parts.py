"""A detector's text side runs once for each text, and gives what the whole program gives."""

import json
import math
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model.detection.detector import Detector
from model.detection.directory import read
from model.detection.engine import Engine
from model.detection.load import load_detector
from model.detection.parts import two_parts
from model.detection.parts.two_parts import TwoParts, load, split
from model.weights import WeightsError
from tests.support import detector_directories as directories
from tests.support.weights_files import GOLDEN

DETECTORS = GOLDEN.parent / "detectors"
KINDS = ["grounding_dino", "yolo_world", "entangled", "legacy_2.6.2", "legacy_3.0.0"]
WORDS = [("cat", "dog"), ("walking man",), tuple(f"red {letter}" for letter in "abcdefghijklmn")]


@pytest.fixture(scope="session")
def entangled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors") / "entangled"
    return directories.write_grounding_dino(folder, network=directories.EntangledGroundingDino)


@pytest.fixture
def contents(request, tmp_path):
    """A detector's directory, read: one that is exported here, or by an older Paddle."""
    if not request.param.startswith("legacy"):
        return read(request.getfixturevalue(request.param))
    shutil.copytree(DETECTORS / request.param, tmp_path / "legacy")
    directories.write_bert_tokenizer(tmp_path / "legacy" / "tokenizer")
    return read(tmp_path / "legacy")


def split_of(contents):
    inputs = sorted(contents.program.inputs)
    return split(contents.program, [inputs[index] for index in contents.architecture.text_inputs])


def engine(program, parameters):
    return Engine(program, parameters, "cpu")


class Counted:
    """A part that counts how often it runs."""

    def __init__(self, part):
        self.part, self.inputs, self.runs = part, part.inputs, 0

    def run(self, inputs):
        self.runs += 1
        return self.part.run(inputs)


class Sums:
    """A program of which every output is the sum of its inputs."""

    def __init__(self, *inputs, size=1):
        self.inputs, self.size, self.runs = inputs, size, 0

    def run(self, inputs):
        self.runs += 1
        return [np.full(self.size, sum(float(array.sum()) for array in inputs), np.float32)]


class Failing(Sums):
    """Fails the next times that it runs; always, where they are not counted."""

    def __init__(self, *inputs, error=None, times=math.inf, size=1):
        super().__init__(*inputs, size=size)
        self.error, self.failures = error or WeightsError("cannot compute"), times

    def run(self, inputs):
        self.failures -= 1
        if self.failures >= 0:
            self.runs += 1
            raise self.error
        return super().run(inputs)


def no_whole():
    raise AssertionError("the whole program was loaded")


def in_parts(text=None, load_whole=no_whole, **kept):
    """A program of the inputs ``image`` and ``words``, with its parts."""
    text, rest = text or Sums("words"), Sums("image", "features")
    return TwoParts((text, rest), ["image", "words"], ("features",), load_whole, **kept), text, rest


@pytest.mark.parametrize("contents", KINDS, indirect=True)
def test_both_parts_give_what_the_whole_gives_and_share_no_parameter(contents):
    parts, whole = split_of(contents), engine(contents.program, contents.parameters)
    assert parts.text.parameters
    assert parts.rest.parameters
    assert not parts.text.parameters & parts.rest.parameters
    loaded = load(parts, contents.program, contents.parameters, engine)
    both = TwoParts(loaded, contents.program.inputs, parts.crossing, no_whole)
    image = contents.architecture.prepare_image(directories.picture())
    for words in WORDS:
        (text,) = contents.architecture.prepare_words(words)
        inputs = contents.architecture.inputs(image, text)
        for ours, theirs in zip(both.run(inputs), whole.run(inputs), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
            assert np.ptp(theirs) > 0 or theirs.size == 1


@pytest.mark.parametrize("contents", ["grounding_dino", "yolo_world", "legacy_3.0.0"], indirect=True)
def test_a_hundred_pictures_run_the_text_side_once_and_other_words_run_it_again(contents):
    parts = split_of(contents)
    loaded = load(parts, contents.program, contents.parameters, engine)
    text, rest = Counted(loaded[0]), Sums(*loaded[1].inputs)
    program = TwoParts((text, rest), contents.program.inputs, parts.crossing, no_whole)
    detector = Detector(contents.name, contents.version, SmallPictures(contents.architecture), program)
    for seed in range(100):
        detector.detect(directories.picture(8, 8, seed), ["cat", "dog"])
    assert (text.runs, rest.runs) == (1, 100)
    detector.detect(directories.picture(8, 8), ["cat", "bus"])
    detector.detect(directories.picture(8, 8), ["cat", "dog"])
    assert (text.runs, rest.runs) == (2, 102)


class SmallPictures:
    """An architecture that finds nothing, and spends no time on pictures."""

    def __init__(self, architecture):
        self.architecture, self.classes, self.threshold = architecture, None, 0.5
        self.prepare_words, self.inputs = architecture.prepare_words, architecture.inputs
        self.pictures = architecture.prepare_image(directories.picture(8, 8))

    def prepare_image(self, image):
        return self.pictures

    def read(self, outputs, text, size, threshold):
        return []


@pytest.mark.parametrize("fixture", ["grounding_dino", "yolo_world"])
def test_a_detector_that_takes_words_leaves_no_file_behind(request, fixture, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    load_detector(request.getfixturevalue(fixture), "cpu").detect(directories.picture(), ["cat"])
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_a_part_nothing_is_copied_and_the_message_names_room_folder_and_remedy(
    grounding_dino, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    contents, attempts = read(grounding_dino), []
    parts = split_of(contents)
    message = (
        rf"expected room for 0\.\d MB in {tmp_path} while a part of the program is loaded, got 0\.0 MB; "
        "make room there, or set TMPDIR to a folder that has it"
    )
    with pytest.raises(OSError, match=message):
        load(parts, contents.program, contents.parameters, lambda *files: attempts.append(files), lambda _: 1000)
    assert attempts == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux names files that have no name in a folder")
def test_a_process_that_is_killed_while_a_part_is_loaded_leaves_no_parameters_behind(
    grounding_dino, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    contents, sizes = read(grounding_dino), []

    def load_part(program, parameters):
        sizes.append(parameters.stat().st_size)
        assert [file.name for _, _, files in os.walk(tmp_path) for file in map(Path, files)] == [program.path.name]
        return Sums(*program.inputs)

    load(split_of(contents), contents.program, contents.parameters, load_part)
    assert sum(sizes) == pytest.approx(contents.parameters.stat().st_size, rel=0.01)


def test_a_detector_with_classes_has_no_text_side(picodet):
    assert split_of(read(picodet)) is None


def test_a_part_is_checked_before_it_runs(grounding_dino):
    contents = read(grounding_dino)
    parts, ran = split_of(contents), []
    hostile = json.loads(parts.text.program)
    hostile["program"]["regions"][0]["blocks"][0]["ops"].append({"#": "1.py_func", "A": [], "I": [], "O": []})
    changed = two_parts.Parts(
        two_parts.Part(json.dumps(hostile).encode(), parts.text.parameters), parts.rest, parts.crossing, parts.shapes
    )
    with pytest.raises(WeightsError, match=r"got the operators 1\.py_func"):
        load(changed, contents.program, contents.parameters, lambda *given: ran.append(given))
    assert ran == []


def test_where_no_part_can_be_written_the_program_runs_as_a_whole(grounding_dino, monkeypatch, tmp_path, caplog):
    found = load_detector(grounding_dino, "cpu").detect(directories.picture(), ["cat"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    detector = load_detector(grounding_dino, "cpu")
    assert "runs as a whole, its text side for every picture" in caplog.text
    assert detector.detect(directories.picture(), ["cat"]) == found


def test_a_part_that_fails_again_with_the_same_text_leaves_all_pictures_to_the_whole_program(caplog):
    whole, loads = Sums("image", "words"), []
    program, *_ = in_parts(Failing("words"), lambda: loads.append(1) or whole)
    for number in range(4):
        assert program.run([np.full(1, number), np.full(1, 5)]) == [np.array([number + 5], np.float32)]
    assert (len(loads), whole.runs) == (2, 4), "once for the first failure, once for good"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "ran as a whole for one picture, since a part of it failed: cannot compute" in caplog.messages[0]
    assert "runs as a whole from now on, its text side with each picture: cannot compute" in caplog.messages[1]


def test_after_a_failure_that_passes_the_parts_run_again_and_the_whole_program_is_given_back():
    wholes = []

    def load_whole():
        whole = Sums("image", "words")
        wholes.append(weakref.ref(whole))
        return whole

    text = Failing("words", times=1)
    program, _, rest = in_parts(text, load_whole)
    for number in range(3):
        assert program.run([np.full(1, number), np.full(1, 5)]) == [np.array([number + 5], np.float32)]
    assert (len(wholes), text.runs, rest.runs) == (1, 2, 2)
    assert wholes[0]() is None, "it takes memory beside the parts"
    text.failures = 1
    assert program.run([np.ones(1), np.full(1, 6)]) == [np.array([7], np.float32)]
    assert program.run([np.ones(1), np.full(1, 6)]) == [np.array([7], np.float32)]
    assert (len(wholes), rest.runs) == (2, 3), "a failure long ago does not count for another text"


def test_a_text_that_worked_since_its_failure_has_a_clean_record():
    text, wholes = Failing("words", size=100, times=1), []
    program, _, rest = in_parts(text, lambda: wholes.append(1) or Sums("image", "words"), kept_bytes=80)
    for _ in range(3):
        text.failures = 1
        for _ in range(2):
            assert program.run([np.ones(1), np.full(1, 5)])
    assert (len(wholes), rest.runs) == (3, 3)


def test_a_failure_that_the_whole_program_shares_does_not_count():
    inputs = [np.ones(1), np.ones(1)]
    program, _, rest = in_parts(Failing("words", times=3), lambda: Failing("image", "words"))
    for _ in range(3):
        with pytest.raises(WeightsError, match="cannot compute"):
            program.run(inputs)
    assert program.run(inputs) == [np.array([2], np.float32)]
    assert rest.runs == 1


def test_a_lack_of_memory_is_the_callers_to_meet_and_leaves_the_parts_in_place():
    program, _, rest = in_parts(Failing("words", error=MemoryError("no memory"), times=3))
    for _ in range(3):
        with pytest.raises(MemoryError, match="no memory"):
            program.run([np.ones(1), np.ones(1)])
    assert program.run([np.ones(1), np.ones(1)]) == [np.array([2], np.float32)]
    assert rest.runs == 1


def test_a_whole_program_that_cannot_be_loaded_is_tried_again():
    answers = [WeightsError("no memory"), Sums("image", "words")]

    def load_whole():
        answer = answers.pop(0)
        if isinstance(answer, WeightsError):
            raise answer
        return answer

    program, *_ = in_parts(Failing("words"), load_whole)
    with pytest.raises(WeightsError, match="no memory"):
        program.run([np.ones(1), np.ones(1)])
    assert program.run([np.ones(1), np.ones(1)]) == [np.array([2], np.float32)]


def test_texts_of_the_same_bytes_and_other_shapes_are_not_confused():
    program, text, _ = in_parts()
    words = np.arange(6)
    for shaped in (words, words.reshape(2, 3), words.reshape(3, 2), words.view(np.float64), words):
        program.run([np.ones(1), shaped])
    assert text.runs == 4


def test_what_is_kept_of_texts_is_bounded_in_bytes_the_longest_unused_goes_first():
    program, text, _ = in_parts(Sums("words", size=10), kept_bytes=80)  # two texts of 40 bytes
    for words in (1, 2, 1, 3, 1):
        program.run([np.ones(1), np.full(1, words)])
    assert text.runs == 3
    program.run([np.ones(1), np.full(1, 2)])
    assert text.runs == 4


def test_a_text_larger_than_all_that_is_kept_runs_with_each_picture():
    program, text, _ = in_parts(Sums("words", size=100), kept_bytes=80)
    for _ in range(3):
        assert program.run([np.ones(1), np.full(1, 5)])
    assert text.runs == 3


def test_threads_with_one_text_run_the_text_side_once():
    program, text, rest = in_parts()
    answers = SimpleNamespace(found=[])
    threads = [
        threading.Thread(target=lambda: answers.found.append(program.run([np.ones(1), np.ones(1)]))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (text.runs, rest.runs) == (1, 8)
    assert answers.found == [[np.array([2], np.float32)]] * 8
