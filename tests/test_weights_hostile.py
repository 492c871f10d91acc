"""Files made to hang, crash or exhaust the readers are refused at once, in one sentence that names them."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model import weights
from tests import checkpoints, torch_file
from tests.golden.paddlex import make as golden

TENSORS = checkpoints.random_tensors(golden.MINUTE, golden.SEED)

DOUBLED = b")" + b"".join(b"\x94h" + bytes([index]) + b"\x86" for index in range(60))
"""A tuple of twice a tuple of twice a tuple ...: 61 objects, 2 ** 60 to whoever follows every one."""
NESTED = b")" + b"\x85" * 400_000
"""A tuple in a tuple in a tuple ..., deeper than any stack."""
TEXT = b"\x8c\x01a"


def refusal(path: Path) -> str:
    """The sentence that refuses the weights at this path."""
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 300
    return sentence


def pth(path: Path, pickled: bytes, **compression: int) -> Path:
    """A file of PyTorch's with this pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled, **compression)
    return path


@pytest.mark.parametrize("inner", [DOUBLED, NESTED], ids=["doubled", "nested"])
@pytest.mark.parametrize(
    ("begin", "end", "sentence"),
    [
        (b"}", b"Ns.", "a key that is no text or number"),
        (b"}(", b"Nu.", "a key that is no text or number"),
        (b"", TEXT + b"\x93.", "a class whose name is no text"),
        (TEXT, b"\x93.", "a class whose name is no text"),
        (b"}" + TEXT, b")Rs.", "a call of something else"),
        (b"}" + TEXT, b"s.", "tuple"),
        (b"}" + TEXT, b"Qs.", "Reference"),
    ],
    ids=["key", "keys", "module", "name", "function", "value", "storage"],
)
@pytest.mark.parametrize("file_format", ["meta", "paddlemix"])
def test_tuples_without_end_are_refused_wherever_they_stand(tmp_path, file_format, begin, inner, end, sentence):
    pickled = b"\x80\x04" + begin + inner + end
    path = tmp_path / "sam.pth"
    if file_format == "meta":
        pth(path, pickled)
    else:
        path.write_bytes(pickled)
    assert sentence in refusal(path)


def test_a_tensor_of_more_numbers_than_its_storage_holds_is_refused(tmp_path):
    name = "image_encoder.pos_embed"
    path = checkpoints.write_meta({**TENSORS, name: np.broadcast_to(np.float32(1), (1, 4, 4, 16))}, tmp_path / "a.pth")
    assert weights.read(path).tensors[name].shape == (1, 4, 4, 16)  # written out in full
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    entries["archive/data.pkl"] = stretched(entries["archive/data.pkl"])
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    assert "expected storage" in refusal(tmp_path / "b.pth")


def stretched(pickled: bytes) -> bytes:
    """Give the tensor of shape (1, 4, 4, 16) the shape (1, 255, 255, 16), every row and column the same one."""
    row = b"(K\x01K\x04K\x04K\x10t"
    steps = b"(M\x00\x01K@K\x10K\x01t"
    assert pickled.count(row) == pickled.count(steps) == 1
    return pickled.replace(row, b"(K\x01K\xffK\xffK\x10t").replace(steps, b"(M\x00\x01K\x00K\x00K\x01t")


def test_tensors_of_endless_axes_are_refused(tmp_path):
    axes = (1,) * 200_000
    path = tmp_path / "model_state.pdparams"
    with path.open("wb") as stream:
        pickle.dump({"a": Reconstructed(axes)}, stream, protocol=4)
    assert "little-endian numpy array" in refusal(path)


class Reconstructed:
    """An array of any shape, as numpy pickles one."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __reduce__(self):
        function, arguments, state = np.ones(1, np.float32).__reduce__()
        return function, arguments, (state[0], self.shape, *state[2:])


@pytest.mark.parametrize("entry", ["data.pkl", "byteorder"])
def test_compressed_entries_are_refused_before_they_become_large(tmp_path, entry):
    path = torch_file.save({"a": np.ones(1, np.float32)}, tmp_path / "sam.pth")
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    bomb = {"data.pkl": b"\x80\x02B" + (1 << 26).to_bytes(4, "little") + bytes(1 << 26) + b"."}.get(
        entry, bytes(1 << 26)
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            is_bomb = name.endswith(f"/{entry}")
            kind = zipfile.ZIP_DEFLATED if is_bomb else zipfile.ZIP_STORED
            archive.writestr(name, bomb if is_bomb else content, kind)
    assert path.stat().st_size < 1 << 18
    assert "not compressed" in refusal(path)
