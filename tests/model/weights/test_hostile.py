"""Files made to hang, crash or exhaust the readers are refused at once, in one sentence that names them."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from model import weights
from model.config import ConvConfig
from model.weights.formats import native, pdiparams
from model.weights.formats.paddle_program import parse_pir
from tests.golden.paddlex import make as golden
from tests.support import checkpoints, torch_file
from tests.support.weights_files import golden_directory

TENSORS = checkpoints.random_tensors(golden.MINUTE, golden.SEED)

DOUBLED = b")" + b"".join(b"\x94h" + bytes([index]) + b"\x86" for index in range(60))
"""A tuple of twice a tuple of twice a tuple ...: 61 objects, 2 ** 60 for code that follows every reference."""
NESTED = b")" + b"\x85" * 150_000
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
def test_tuples_without_end_are_refused_wherever_they_stand(tmp_path, file_format, begin, end, sentence):
    pickled = b"\x80\x04" + begin + DOUBLED + end
    path = tmp_path / "sam.pth"
    if file_format == "meta":
        pth(path, pickled)
    else:
        path.write_bytes(pickled)
    assert sentence in refusal(path)


def test_tuples_too_deep_for_any_stack_are_refused(tmp_path):
    assert "a key that is no text or number" in refusal(pth(tmp_path / "sam.pth", b"\x80\x04}" + NESTED + b"Ns."))


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


# Inference directories.


@pytest.fixture
def directory(tmp_path):
    """A whole inference directory of Paddle 3, for a test to spoil."""
    return golden_directory("pir_box_3.0.0", tmp_path / "box_infer")


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def legacy_program(path: Path, inner: Callable[[int], Iterable[int]], count: int) -> Path:
    """A program in which the operations of each block refer to blocks, as branches do."""
    blocks = []
    for index in range(count):
        operations = [field(3, b"while") + field(4, field(12, child)) for child in inner(index) if child < count]
        blocks.append(field(1, b"".join(field(4, operation) for operation in operations)))
    path.mkdir()
    (path / "inference.pdmodel").write_bytes(b"".join(blocks))
    (path / "inference.pdiparams").write_bytes(b"")
    return path


def test_blocks_that_refer_to_each_other_twice_are_followed_once(tmp_path):
    legacy_program(tmp_path / "sam", lambda index: (index + 1, index + 1), 60)
    assert "expected a program that uses parameters, got none" in refusal(tmp_path / "sam")


def test_blocks_that_lie_in_each_other_too_deep_are_refused(tmp_path):
    legacy_program(tmp_path / "sam", lambda index: (index + 1,), 3000)
    assert "more levels" in refusal(tmp_path / "sam")


@pytest.mark.parametrize("name", [7, None, ["a"], {}, True])
def test_parameters_whose_names_are_no_text_are_refused(directory, name):
    path = directory / "inference.json"
    text = path.read_text()
    assert '"linear_0.w_0"' in text
    path.write_text(text.replace('"linear_0.w_0"', json.dumps(name)))
    assert "inference.json" in refusal(directory)


@pytest.mark.parametrize("side", ['"a"', "[1]", "null", "1.5"])
def test_inputs_whose_shapes_are_no_numbers_are_refused(directory, side):
    path = directory / "inference.json"
    text = path.read_text()
    assert "[1,3,32,32]" in text
    path.write_text(text.replace("[1,3,32,32]", f"[1,3,32,{side}]"))
    assert "inference.json" in refusal(directory)


def test_an_operation_of_very_many_operands_is_put_in_order_at_once():
    names = [f"linear_{index}.{role}" for index in range(50_000) for role in ("b_0", "w_0")]
    kind = {"D": [{"#": "0.t_f32"}, [1]]}
    parameters = [{"#": "p", "O": {"%": at, "TT": kind}, "A": [0, 0, 0, name]} for at, name in enumerate(names)]
    operation = {"#": "1.concat", "I": [{"%": at} for at in range(len(names))]}
    blocks = [{"ops": [*parameters, operation]}]
    content = {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": blocks}]}}
    program = parse_pir(json.dumps(content).encode())
    assert program.uses[:4] == ["linear_0.w_0", "linear_0.b_0", "linear_1.w_0", "linear_1.b_0"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 1_000 + "]" * 1_000, "got other text"),
        ("a0: &a0 [1, 1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60))
         + "Processor: {size: *a60}\n", "expected Processor.size in pixels, got a sequence"),
        ("a0: &a0 {k: v}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}\n" for n in range(60))
         + "Processor: {size: many}\n", "expected Processor.size in pixels, got 'many'"),
        ("Processor: {size: " + "9" * 10_000 + "}", "got other text"),
        ("Processor: &p {size: *p}", "got a mapping"),
        ("Processor: 7", "got other text"),
        ("", "got other text"),
        ("Processor: {size: -3}", "got '-3'"),
        ("Processor: {size: 2024-01-01}", "got '2024-01-01'"),
    ],
    ids=["deep", "aliases", "merged aliases", "long number", "itself", "number", "empty", "negative", "date"],
)  # fmt: skip
def test_a_description_is_refused_whatever_its_text_stands_for(directory, text, sentence):
    (directory / "inference.yml").write_text(text)
    refused = refusal(directory)
    assert sentence in refused
    assert "inference.yml" in refused


@pytest.mark.parametrize("text", ["{}", "Processor: {}", "Processor: {size: 32}", "Processor: {size: 0x20}",
                                  "Processor: {size: }", "shared: &s 32\nProcessor: {size: *s}"])  # fmt: skip
def test_a_description_with_or_without_the_size_is_read(directory, text):
    (directory / "inference.yml").write_text(text)
    assert weights.read(directory).config.image_size == 32


def parameter_file(path: Path, kind: int, sides: Iterable[int]) -> Path:
    """A file of one parameter of Paddle's type ``kind`` that ends after its description."""
    description = field(1, kind) + b"".join(field(2, side) for side in sides)
    path.write_bytes(struct.pack("<IQIi", 0, 0, 0, len(description)) + description)
    return path


@pytest.mark.parametrize("sides", [(1 << 62, 1 << 62), (5,), (-1 & (1 << 64) - 1,)], ids=["huge", "absent", "negative"])
def test_constants_that_end_after_their_file_are_refused(tmp_path, sides):
    path = parameter_file(tmp_path / "inference.pdiparams", 3, sides)
    shape = tuple(side - (1 << 64) if side >> 63 else side for side in sides)
    with pytest.raises(weights.WeightsError, match="expected one to end at byte"):
        pdiparams.read(path, {"one": shape})


def test_a_parameter_that_is_no_float_in_its_own_file_is_refused(directory):
    path = directory / "inference.pdiparams"
    content = path.read_bytes()
    float32, int32 = field(1, 5), field(1, 2)
    assert content[20:22] == float32
    path.write_bytes(content[:20] + int32 + content[22:])
    assert "as floating point numbers as in the program" in refusal(directory / "inference.pdiparams")


# Configurations.


def changed(path: Path, **changes: object) -> Path:
    """A file of our own whose configuration says something else."""
    fields = json.loads(golden.MINUTE.to_json())
    for name, value in changes.items():
        (fields["image_encoder"] if name in fields["image_encoder"] else fields)[name] = value
    save_file(dict(TENSORS), path, {"format": native.FORMAT, "config": json.dumps(fields)})
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("patch_size", value) for value in (0, -8, 8.0, "8", None, True)],
        *[("num_heads", value) for value in (0, 3, "2", [2])],
        *[("decoder_num_heads", value) for value in (0, 7, -8, "4", 4.0)],
        *[("depth", value) for value in (0, 10**12, "2")],
        *[("decoder_depth", value) for value in (0, 10**12)],
        *[("num_multimask_outputs", value) for value in (-1, 10**12)],
        *[("iou_head_depth", value) for value in (0, 10**12)],
        *[("mlp_ratio", value) for value in (0, -1, float("nan"), float("inf"), "4")],
        *[("global_attn_indexes", value) for value in (7, ["1"], [-1], [2], [1] * 100_000)],
        *[("window_size", value) for value in (0, "2")],
        *[("image_size", value) for value in (0, 30, 10**30)],
        *[("prompt_embed_dim", value) for value in (0, 15)],
        *[("mask_in_chans", value) for value in (0, 3)],
        ("name", ["a"]),
    ],
)
def test_a_configuration_of_no_network_is_refused_with_what_is_wrong(tmp_path, name, value):
    sentence = refusal(changed(tmp_path / "mine.safetensors", **{name: value}))
    assert name in sentence or "num_heads" in sentence


def test_a_configuration_too_deep_to_read_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(dict(TENSORS), path, {"format": native.FORMAT, "config": "[" * 100_000})
    assert "expected a SAM configuration as JSON" in refusal(path)


@pytest.mark.parametrize("changes", [{"attn_heads": 0}, {"attn_heads": 3}, {"widths": (8, 8)}, {"depths": (1, 1, "1")}])
def test_a_convolutional_trunk_of_no_network_is_refused(changes):
    sizes = {"widths": (8, 8, 8), "depths": (1, 1, 1), "attn_depth": 1, "attn_heads": 2}
    assert ConvConfig(**sizes).widths == (8, 8, 8)
    with pytest.raises(ValueError, match=next(iter(changes))):
        ConvConfig(**(sizes | changes))


@pytest.mark.parametrize("name", ["image_encoder.blocks.0.attn.rel_pos_h", "image_encoder.blocks.0.mlp.lin1.weight"])
def test_parameters_without_elements_are_refused(tmp_path, name):
    empty = np.zeros((0,) * TENSORS[name].ndim, np.float32)
    path = checkpoints.write_huggingface({**TENSORS, name: empty}, tmp_path / "model.safetensors")
    assert "expected a parameter with elements" in refusal(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"mask_decoder_config": 7}'])
def test_another_json_beside_weights_of_hugging_face_is_left_alone(tmp_path, text):
    path = checkpoints.write_huggingface(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    assert weights.read(path).config.decoder_num_heads == 8


@pytest.mark.parametrize("heads", [0, 7, "8", [[]]])
def test_heads_that_no_decoder_can_have_are_refused(tmp_path, heads):
    path = checkpoints.write_huggingface(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"mask_decoder_config": {"num_attention_heads": heads}}))
    with pytest.raises(weights.WeightsError, match=r"num_attention_heads|decoder_num_heads"):
        weights.read(path)
