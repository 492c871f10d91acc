"""The run-length code: same bytes as label-studio-sdk writes, same values as the editor's own package reads."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backend.protocol import rle
from model.types import Mask
from tests.reference import sdk

GOLDEN = Path(__file__).parents[2] / "golden"
EDGE_FILES = sorted((GOLDEN / "label_studio" / "rle").glob("*.json"))

bool_arrays = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


def edge_masks() -> dict[str, np.ndarray]:
    single = np.zeros((11, 11), dtype=bool)
    single[5, 5] = True
    run = np.zeros((128, 256), dtype=bool)
    run.reshape(-1)[:16384] = True
    return {
        "rle_edge_empty": np.zeros((100, 100), dtype=bool),
        "rle_edge_full": np.ones((300, 300), dtype=bool),
        "rle_edge_run65536": run,
        "rle_edge_single": single,
    }


def golden_pairs() -> list[tuple[np.ndarray, bytes]]:
    pairs = json.loads((GOLDEN / "rle" / "pairs.json").read_text())
    pairs_read = []
    for pair in pairs:
        height, width = pair["size"]
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(pair["mask"]), dtype=np.uint8))[: height * width]
        pairs_read.append((bits.astype(bool).reshape(height, width), bytes.fromhex(pair["rle"])))
    return pairs_read


def random_masks(count: int, seed: int = 0) -> list[np.ndarray]:
    """Return noise, boxes and blobs of many sizes, some touching the border."""
    random = np.random.default_rng(seed)
    masks = []
    for number in range(count):
        height, width = (int(side) for side in random.integers(1, 90, 2))
        mask = random.random((height, width)) < random.random()
        if number % 3 == 1:
            mask[:] = False
            (top, bottom), (left, right) = sorted(random.integers(0, height, 2)), sorted(random.integers(0, width, 2))
            mask[top : bottom + 1, left : right + 1] = True
        if number % 3 == 2:
            rows, columns = np.mgrid[:height, :width]
            mask = np.hypot(rows - random.integers(height), columns - random.integers(width)) < random.integers(1, 60)
        masks.append(mask)
    return masks


@settings(deadline=None)
@given(bool_arrays)
def test_any_mask_survives_encoding_and_decoding(array: np.ndarray) -> None:
    assert np.array_equal(rle.decode(rle.encode(Mask.from_array(array)), array.shape).to_array(), array)


@settings(deadline=None)
@given(bool_arrays)
def test_the_code_does_not_depend_on_how_tightly_the_mask_is_cropped(array: np.ndarray) -> None:
    loose = Mask(array.copy(), (0, 0), array.shape)
    assert rle.encode(loose) == rle.encode(Mask.from_array(array))


@pytest.mark.parametrize("path", EDGE_FILES, ids=lambda path: path.stem)
def test_recorded_edge_masks_give_the_recorded_bytes(path: Path) -> None:
    recorded = json.loads(path.read_text())
    mask = Mask.from_array(edge_masks()[path.stem])
    assert mask.original_size == (recorded["h"], recorded["w"])
    assert list(rle.encode(mask)) == recorded["rle"]


@pytest.mark.parametrize("path", EDGE_FILES, ids=lambda path: path.stem)
def test_recorded_edge_bytes_give_the_recorded_masks(path: Path) -> None:
    recorded = json.loads(path.read_text())
    mask = rle.decode(bytes(recorded["rle"]), (recorded["h"], recorded["w"]))
    assert mask.area == recorded["sum"]
    assert np.array_equal(mask.to_array(), edge_masks()[path.stem])


def test_bytes_are_those_of_the_sdk() -> None:
    for array, code in golden_pairs():
        assert rle.encode(Mask.from_array(array)) == code


def test_bytes_of_the_sdk_are_read() -> None:
    for array, code in golden_pairs():
        assert np.array_equal(rle.decode(code, array.shape).to_array(), array)


def test_codes_that_end_on_a_byte_are_padded_with_eight_more_zero_bits() -> None:
    """The SDK's closing quirk: 53 bits of header and one code of 27 end on a byte, and a zero byte follows."""
    code = rle.encode(Mask.from_array(np.ones((100, 100), dtype=bool)))
    assert len(code) == 11
    assert code[-1] == 0


def test_a_run_longer_than_65536_values_takes_several_codes() -> None:
    """Three full codes of 27 bits for 3 × 65536 values, then the rest."""
    array = np.ones((1, 3 * 16384 + 1), dtype=bool)
    code = rle.encode(Mask.from_array(array))
    assert len(code) == (53 + 4 * 27) // 8 + 1
    assert np.array_equal(rle.decode(code, array.shape).to_array(), array)


def test_a_mask_of_many_runs_is_filled_right() -> None:
    array = np.random.default_rng(3).random((300, 500)) < 0.5
    assert np.count_nonzero(np.diff(array.astype(int))) > rle.FEW_RUNS
    assert np.array_equal(rle.decode(rle.encode(Mask.from_array(array)), array.shape).to_array(), array)


def test_soft_strokes_packed_by_the_editor_are_read_by_their_alpha() -> None:
    for stroke in json.loads((GOLDEN / "rle" / "literals.json").read_text()):
        size = tuple(stroke["size"])
        expected = np.array(stroke["alpha"]).reshape(size) > 0
        assert np.array_equal(rle.decode(bytes(stroke["rle"]), size).to_array(), expected)


def test_a_mask_saved_by_the_editor_is_read() -> None:
    body = json.loads((GOLDEN / "label_studio" / "requests" / "webhook_annotation_created.json").read_text())["body"]
    painted = [region for region in body["annotation"]["result"] if "rle" in region["value"]]
    assert painted
    for region in painted:
        size = (region["original_height"], region["original_width"])
        mask = rle.decode(bytes(region["value"]["rle"]), size)
        assert 0 < mask.area < size[0] * size[1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "at least 7 bytes"),
        (b"\x00" * 6, "at least 7 bytes"),
        (rle.encode(Mask.from_array(np.ones((4, 4), dtype=bool))), "expected 100 values, got 64"),
        (rle.encode(Mask.from_array(np.ones((5, 5), dtype=bool)))[:7], "expected 100 values, got 0"),
        ((100 << 21 | 15 << 16 | 0x2370).to_bytes(7, "big"), "values"),
        (rle.encode(Mask.from_array(np.ones((5, 5), dtype=bool)))[:7] + bytes(400), "at most 346 bytes"),
    ],
    ids=["empty", "short", "another size", "cut off", "wide values", "more codes than values"],
)
def test_a_damaged_code_is_refused_in_words(code: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rle.decode(code, (5, 5))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    header = rle.encode(Mask.from_array(np.zeros((5, 5), dtype=bool)))[:6]
    for code in (noise, header + noise):
        try:
            size = rle.decode(code, (5, 5)).original_size
        except ValueError:
            continue
        assert size == (5, 5)


def test_a_photo_beyond_the_formats_count_is_refused() -> None:
    empty = Mask(np.zeros((0, 0), dtype=bool), (0, 0), (40_000, 40_000))
    with pytest.raises(ValueError, match="at most 1073741823 pixels, got 1600000000"):
        rle.encode(empty)


@pytest.mark.reference
def test_thousands_of_masks_give_the_bytes_of_the_installed_sdk() -> None:
    arrays_ = random_masks(3000, seed=11)
    question = [[list(array.shape), np.packbits(array).tobytes().hex()] for array in arrays_]
    script = """
import numpy as np
from label_studio_sdk.converter.brush import mask2rle
answer = []
for (height, width), bits in question:
    mask = np.unpackbits(np.frombuffer(bytes.fromhex(bits), dtype=np.uint8))[: height * width].reshape(height, width)
    answer.append(bytes(mask2rle(mask * 255)).hex())
"""
    for array, code in zip(arrays_, sdk.run(script, question), strict=True):
        assert rle.encode(Mask.from_array(array)).hex() == code


@pytest.mark.reference
def test_the_editors_own_package_reads_what_we_write(tmp_path: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node")
    subprocess.run(
        ["npm", "install", "--silent", "--prefix", str(tmp_path), "@thi.ng/rle-pack@3"], check=True, timeout=120
    )
    arrays_ = [*random_masks(300, seed=5), *edge_masks().values()]
    codes = [list(rle.encode(Mask.from_array(array))) for array in arrays_]
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    (tmp_path / "read.mjs").write_text(
        'import { decode } from "@thi.ng/rle-pack"; import { readFileSync } from "node:fs";\n'
        'const codes = JSON.parse(readFileSync("codes.json"));\n'
        "console.log(JSON.stringify(codes.map((code) => Array.from(decode(Uint8Array.from(code))))));\n"
    )
    completed = subprocess.run(
        ["node", "read.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    for array, values in zip(arrays_, json.loads(completed.stdout), strict=True):
        assert np.array_equal(np.array(values), np.repeat(array.reshape(-1), 4) * 255)
