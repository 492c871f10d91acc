"""Weights as training scripts leave them: wrapped, prefixed, with optimizers and arguments beside them."""

import argparse
import collections
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from model import weights
from model.weights.formats import native
from tests.golden.paddlex import make as golden
from tests.support import checkpoints, torch_file

TENSORS = checkpoints.random_tensors(golden.MINUTE, golden.SEED)
TORCH = checkpoints.to_torch_layout(TENSORS)
HUGGINGFACE = {checkpoints.huggingface_name(name): value for name, value in TORCH.items()}
OTHERS = {name: value + 1 for name, value in TORCH.items()}
BESIDE = {
    "optimizer": {
        "state": {0: {"step": np.ones((), np.float32), "exp_avg": np.ones(3, np.float32)}},
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
    },
    "lr_scheduler": {"last_epoch": 35, "milestones": collections.Counter([3, 4]), "_last_lr": [1e-5]},
    "epoch": 35,
    "best_dice": np.float64(0.93),
    "args": argparse.Namespace(device="cuda:0", work_dir=Path("work_dir"), task_name="MedSAM"),
    "losses": collections.deque([0.5, 0.25], maxlen=20),
    "classes": {"cell", "vessel"},
    "seen": frozenset({1, 2}),
    "shapes": {(1024, 1024): 3},
    "nothing": None,
}


def prefixed(prefix: str, tensors: dict[str, np.ndarray] = TORCH) -> dict[str, np.ndarray]:
    return {prefix + name: value for name, value in tensors.items()}


def compiled(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names where the image encoder alone was compiled, and lies in a wrapper of DistributedDataParallel."""
    return {
        name.replace("image_encoder.", "image_encoder._orig_mod.module."): tensor for name, tensor in tensors.items()
    }


def by_module(tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """A state dict for each of the three parts."""
    parts: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    return dict(parts)


WRAPPED = {
    "MedSAM's": {"model": TORCH, **BESIDE},
    **{key: {key: TORCH, **BESIDE} for key in ("state_dict", "model_state", "model_state_dict", "net", "weights")},
    **{prefix: prefixed(prefix) for prefix in ("module.", "model.", "sam.", "module.sam.", "_orig_mod.", "net.sam.")},
    "DistributedDataParallel's in a wrapper": {"model": prefixed("module."), **BESIDE},
    "Lightning's": {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.4.0", "loops": {"fit_loop": {}}},
    "compiled parts": compiled(TORCH),
    "a dict for each part": by_module(TORCH),
    "a dict for each part, wrapped": {"checkpoint": {"model": by_module(TORCH)}, **BESIDE},
    "an averaged copy beside it": {"model": TORCH, "model_ema": prefixed("module.", OTHERS), **BESIDE},
    "an averaged copy alone": {"teacher": TORCH},
    "a detector beside it": {"model": {**prefixed("sam."), "detector.weight": np.ones(3, np.float32)}},
    "plain values in it": {**TORCH, "epoch": 35, "name": "mine", "best": None},
    "ordered dicts": collections.OrderedDict(model=collections.OrderedDict(TORCH)),
    "names of Hugging Face": HUGGINGFACE,
    "names of Hugging Face, wrapped": {"model_state_dict": prefixed("module.", HUGGINGFACE), **BESIDE},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("write", [torch_file.save, torch_file.save_old])
def test_a_wrapped_state_dict_gives_the_same_numbers(tmp_path, write, wrapped):
    checkpoint = weights.read(write(WRAPPED[wrapped], tmp_path / "best.pth"))
    assert checkpoints.differing(checkpoint, TENSORS) == []
    assert checkpoint.format == ("huggingface" if "Hugging Face" in wrapped else "meta")


def test_tensors_that_were_on_a_gpu_are_read(tmp_path):
    path = torch_file.save({"model": prefixed("module.")}, tmp_path / "best.pth", device="cuda:3")
    assert checkpoints.differing(weights.read(path), TENSORS) == []


@pytest.mark.parametrize("name", ["a.pt", "pytorch_model.bin", "last.ckpt"])
def test_a_directory_with_a_file_of_another_ending_is_read(tmp_path, name):
    torch_file.save(WRAPPED["Lightning's"], tmp_path / name)
    assert checkpoints.differing(weights.read(tmp_path), TENSORS) == []


@pytest.mark.parametrize(
    "names",
    [TORCH, HUGGINGFACE, prefixed("sam."), prefixed("model.sam.", HUGGINGFACE), compiled(TORCH)],
    ids=["Meta's", "Hugging Face's", "prefixed", "Hugging Face's, prefixed", "compiled"],
)
def test_safetensors_are_read_under_any_of_these_names(tmp_path, names):
    save_file(names, tmp_path / "model.safetensors", {"format": "pt"})
    assert checkpoints.differing(weights.read(tmp_path / "model.safetensors"), TENSORS) == []


@pytest.mark.parametrize("prefix", ["", "sam."])
def test_safetensors_in_paddles_layout_are_recognised_by_a_matrix(tmp_path, prefix):
    save_file(prefixed(prefix, TENSORS), tmp_path / "model.safetensors", {"format": "np"})
    assert checkpoints.differing(weights.read(tmp_path / "model.safetensors"), TENSORS) == []


@pytest.mark.parametrize(("kind", "dtype"), [("F64", np.float64), ("F16", np.float16), ("BF16", np.uint16)])
def test_safetensors_of_other_precisions_are_brought_to_float32(tmp_path, kind, dtype):
    stored = {name: _as(value, dtype) for name, value in TORCH.items()}
    path = write_safetensors(stored, kind, tmp_path / "model.safetensors")
    expected = {name: _back(value) for name, value in stored.items()}
    tensors = checkpoints.to_torch_layout(dict(weights.read(path).tensors))
    assert [name for name in expected if not np.array_equal(tensors[name], expected[name])] == []


def _as(values: np.ndarray, dtype: type) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype is np.uint16 else values.astype(dtype)


def _back(values: np.ndarray) -> np.ndarray:
    is_bfloat16 = values.dtype == np.uint16
    return (values.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else values.astype(np.float32)


def write_safetensors(stored: dict[str, np.ndarray], kind: str, path: Path) -> Path:
    """A safetensors file by its specification, for types that numpy does not have."""
    header, at = {}, 0
    for name, value in stored.items():
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in stored.values()))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "saved",
    [{"model": TENSORS, **BESIDE}, prefixed("module.", TENSORS), {"state_dict": prefixed("sam.", TENSORS)}],
    ids=["wrapped", "prefixed", "both"],
)
def test_wrapped_pdparams_are_read(tmp_path, saved, protocol):
    with (tmp_path / "best.pdparams").open("wb") as stream:
        pickle.dump(saved, stream, protocol=protocol)
    assert checkpoints.differing(weights.read(tmp_path / "best.pdparams"), TENSORS) == []


def test_arrays_of_columns_first_are_read_right(tmp_path):
    with (tmp_path / "best.pdparams").open("wb") as stream:
        pickle.dump({name: np.asfortranarray(value) for name, value in TENSORS.items()}, stream, protocol=4)
    assert checkpoints.differing(weights.read(tmp_path / "best.pdparams"), TENSORS) == []


def test_what_paddle_saves_of_a_training_run_is_read_bfloat16_too(tmp_path):
    import paddle

    half = {name: paddle.to_tensor(value).astype("bfloat16") for name, value in TENSORS.items()}
    paddle.save({"model": half, "epoch": 3}, str(tmp_path / "best.pdparams"))
    expected = {name: value.astype("float32").numpy() for name, value in half.items()}
    assert checkpoints.differing(weights.read(tmp_path / "best.pdparams"), expected) == []


def test_what_lies_beside_sam_in_its_state_dict_is_logged(tmp_path, caplog):
    head = {f"detector.{index}.weight": np.ones(3, np.float32) for index in range(90)}
    weights.read(torch_file.save({"model": {**prefixed("sam."), **head}, **BESIDE}, tmp_path / "best.pth"))
    (record,) = caplog.records
    assert "best.pth: read what is under model.sam.; left out 90 entries: model.detector.0.weight" in record.message
    assert len(record.message) < len(str(tmp_path)) + 300


def test_of_the_usual_files_nothing_is_logged(tmp_path, caplog):
    for number, name in enumerate(name for name in WRAPPED if "detector" not in name):
        weights.read(torch_file.save(WRAPPED[name], tmp_path / f"{number}.pth"))
    assert caplog.records == []


# What cannot be read says what was found.


def refusal(path: Path) -> str:
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 300
    return sentence


@pytest.mark.parametrize("write", [torch_file.save, torch_file.save_old])
def test_another_networks_file_is_refused_with_the_first_keys_that_were_found(tmp_path, write):
    resnet = {f"layer{index}.{name}": np.ones(2, np.float32) for index in range(40) for name in ("weight", "bias")}
    sentence = refusal(write({"net": resnet, "epoch": 1}, tmp_path / "best.pth"))
    assert "got none among 81 entries: net.layer0.weight, net.layer0.bias, net.layer1.weight" in sentence
    assert sentence.endswith("...")


def test_a_decoder_by_itself_is_refused_with_its_keys(tmp_path):
    decoder = {
        name.removeprefix("mask_decoder."): tensor for name, tensor in TORCH.items() if name.startswith("mask_dec")
    }
    path = torch_file.save(dict(reversed(decoder.items())), tmp_path / "best.pth")
    assert "entries: iou_prediction_head.layers.2.bias, iou_prediction_head.layers.2.weight, " in refusal(path)


def test_an_adapter_in_the_network_is_refused_by_its_name(tmp_path):
    adapter = {"image_encoder.blocks.0.Adapter.fc1.weight": np.ones((3, 3), np.float32)}
    path = torch_file.save({"model": prefixed("module.", {**TORCH, **adapter})}, tmp_path / "best.pth")
    assert "Adapter.fc1.weight (1 unknown names)" in refusal(path)


def test_a_part_beside_the_three_that_the_network_has_of_its_own_is_refused_by_its_name(tmp_path):
    head = {"class_head.weight": np.ones((3, 3), np.float32)}
    assert "class_head.weight (1 unknown" in refusal(torch_file.save({**TORCH, **head}, tmp_path / "best.pth"))


def test_a_word_that_merely_contains_that_for_an_averaged_copy_is_a_network_too(tmp_path):
    sentence = refusal(torch_file.save({"model": TORCH, "semantic": OTHERS}, tmp_path / "best.pth"))
    assert "expected one SAM, got 2, under 2 entries: model., semantic." in sentence


def test_two_networks_in_one_file_are_refused_with_where_they_are(tmp_path):
    sentence = refusal(torch_file.save({"student": TORCH, "best": prefixed("sam.")}, tmp_path / "best.pth"))
    assert "expected one SAM, got 2, under 2 entries: student., best.sam." in sentence


def test_one_parameter_under_two_names_is_refused(tmp_path):
    twice = {**TORCH, "image_encoder.module.pos_embed": TORCH["image_encoder.pos_embed"]}
    assert "expected one image_encoder.pos_embed, got two" in refusal(torch_file.save(twice, tmp_path / "best.pth"))


def test_a_parameter_that_is_no_tensor_of_floats_is_named(tmp_path):
    broken = {**TORCH, "image_encoder.pos_embed": "elsewhere"}
    assert "model.image_encoder.pos_embed to be a tensor" in refusal(
        torch_file.save({"model": broken}, tmp_path / "best.pth")
    )


class Sam:
    """A module as PyTorch pickles one: its class by name, its parts in its state."""

    def __init__(self) -> None:
        self._modules = {"image_encoder": None}
        self._parameters: dict[str, object] = {}


@pytest.mark.parametrize("saved", [Sam(), {"model": Sam(), "epoch": 3}], ids=["by itself", "wrapped"])
@pytest.mark.parametrize("write", [torch_file.save, torch_file.save_old])
def test_a_whole_module_is_named_by_its_class_and_never_made(tmp_path, write, saved):
    sentence = refusal(write(saved, tmp_path / "best.pth"))
    assert "got a whole module (tests.model.weights.test_wrapped.Sam), of which nothing is executed here" in sentence
    assert "save its state_dict()" in sentence


@pytest.mark.parametrize("write", [torch_file.save, torch_file.save_old])
def test_messages_quote_keys_and_classes_of_any_text_on_one_line_of_bounded_length(tmp_path, write):
    odd = "a\nb\x1b[31m" + "x" * 10_000
    assert "entries: a?b?[31mxxx" in refusal(write({odd: np.ones(2, np.float32)}, tmp_path / "best.pth"))
    assert "a?b?[31mxxx" in refusal(write({**TORCH, f"image_encoder.{odd}": 3}, tmp_path / "best.pth"))
    pickled = b"\x80\x04}\x8c\x01a\x8c\x03a\nb" + b"X" + (9000).to_bytes(4, "little") + b"c" * 9000 + b"\x93)Rs."
    with zipfile.ZipFile(tmp_path / "class.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    assert "a (a call of a?b.ccc" in refusal(tmp_path / "class.pth")


def test_a_torchscript_program_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "sam.pt", "w") as archive:
        archive.writestr("sam/data.pkl", b"\x80\x02}.")
        archive.writestr("sam/constants.pkl", b"\x80\x02).")
    assert "TorchScript" in refusal(tmp_path / "sam.pt")


def dicts_in_dicts(end: bytes) -> bytes:
    """A pickled dict of 26 times the same dict of 26 times the same dict ...: few objects, 26 ** 8 to walk through."""
    pickled = b"\x80\x04" + end + b"\x94"
    for level in range(9):
        pairs = b"".join(b"\x8c\x01" + bytes([97 + at]) + b"h" + bytes([level]) for at in range(26))
        pickled += b"}(" + pairs + b"u\x94"
    return pickled + b"."


@pytest.mark.parametrize("end", [b"}", b"K\x01"], ids=["empty", "filled"])
def test_dicts_without_end_are_refused_at_once(tmp_path, end):
    with zipfile.ZipFile(tmp_path / "sam.pth", "w") as archive:
        archive.writestr("archive/data.pkl", dicts_in_dicts(end))
    assert "more than 65536 entries" in refusal(tmp_path / "sam.pth")


def test_an_empty_dict_is_called_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "sam.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04}.")
    assert refusal(tmp_path / "sam.pth").endswith("expected a state dict of SAM, got an empty dict")


def test_a_dict_in_itself_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "sam.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04}\x94\x8c\x01ah\x00s.")
    assert "got none among 1 entries: a.a.a.a" in refusal(tmp_path / "sam.pth")


@pytest.mark.parametrize("cut", [40, 4000, -100, -1])
def test_a_truncated_file_of_the_old_kind_is_refused(tmp_path, cut):
    path = torch_file.save_old(TORCH, tmp_path / "best.pth")
    path.write_bytes(path.read_bytes()[:cut])
    refusal(path)


def test_a_native_file_whose_parameter_holds_whole_numbers_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    whole = {**TENSORS, "mask_decoder.mask_tokens.weight": np.ones((4, 16), np.int64)}
    save_file(whole, path, {"format": native.FORMAT, "config": golden.MINUTE.to_json()})
    assert "mask_decoder.mask_tokens.weight: expected a parameter with elements, all floating point" in refusal(path)


# Against PyTorch itself, where it is installed.


@pytest.mark.parametrize("is_zip", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_what_pytorch_saves_of_a_training_run_is_read_as_pytorch_reads_it(tmp_path, is_zip, dtype):
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(value).to(getattr(torch, dtype)) for name, value in TORCH.items()}
    state["module.image_encoder.neck.0.weight"] = state["module.image_encoder.neck.0.weight"].transpose(0, 1)
    state["module.image_encoder.neck.0.weight"] = state["module.image_encoder.neck.0.weight"].contiguous()
    state["module.image_encoder.neck.0.weight"] = state["module.image_encoder.neck.0.weight"].transpose(0, 1)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    saved = {"model": state, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), **BESIDE}
    torch.save(saved, tmp_path / "best.pth", _use_new_zipfile_serialization=is_zip)
    checkpoint = weights.read(tmp_path / "best.pth")
    theirs = torch.load(tmp_path / "best.pth", weights_only=False)["model"]
    expected = {name.removeprefix("module."): value.float().numpy() for name, value in theirs.items()}
    tensors = checkpoints.to_torch_layout(dict(checkpoint.tensors))
    assert [name for name in expected if not np.array_equal(tensors[name], expected[name])] == []


@pytest.mark.parametrize("is_zip", [True, False], ids=["new", "old"])
def test_parameters_that_share_one_storage_are_distinguished(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    flat = torch.from_numpy(np.concatenate([value.ravel() for value in TORCH.values()]))
    state, at = {}, 0
    for name, value in TORCH.items():
        state[name] = flat[at : at + value.size].view(value.shape)
        at += value.size
    torch.save({"state_dict": state}, tmp_path / "best.pth", _use_new_zipfile_serialization=is_zip)
    assert checkpoints.differing(weights.read(tmp_path / "best.pth"), TENSORS) == []


def test_pytorch_reads_the_file_of_the_old_kind_that_stands_in_for_its_own(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = torch.load(torch_file.save_old(TORCH, tmp_path / "sam.pth"), weights_only=True)
    assert [name for name in TORCH if not np.array_equal(tensors[name].numpy(), TORCH[name])] == []


def test_a_whole_module_of_pytorchs_is_named_by_its_class(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "best.pth")
    assert "a whole module (torch.nn.modules.container.Sequential)" in refusal(tmp_path / "best.pth")
