"""Exports can be read back, and PaddleX itself answers from them as we do."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from model import weights
from model.config import ConvConfig, SamConfig, vit_b
from model.paddlex.model import DEMO_WEIGHTS
from model.types import Prompt
from model.weights import parameters
from model.weights.export import export
from model.weights.summary import inspect
from tests.golden.paddlex import make as golden
from tests.reference.random_weights import photo
from tests.support import checkpoints

MINUTE = golden.MINUTE
BOXES = np.array([[10, 20, 100, 110], [50.5, 30.2, 190, 140]], np.float32)
POINT = np.array([[100, 70]], np.float32)


@pytest.fixture(scope="module")
def checkpoint() -> weights.Checkpoint:
    return checkpoints.random_checkpoint(MINUTE, golden.SEED)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> dict[str, Path]:
    """PaddleX's directories of the weights for a box and for a point, each in a folder of its own."""
    # Before this module's networks: threads that a network's pool starts meanwhile reset Paddle's count of names.
    return {
        prompt: export(checkpoint, tmp_path_factory.mktemp(prompt) / "SAM-H_infer", prompt=prompt)
        for prompt in ("box", "point")
    }


@pytest.mark.parametrize(("prompt", "capabilities"), [("box", {"boxes"}), ("point", {"points", "negative_points"})])
def test_an_exported_paddlex_directory_reads_back_the_same(checkpoint, exported, prompt, capabilities):
    directory = exported[prompt]
    reread = weights.read(directory)
    assert (reread.format, reread.name, reread.capabilities) == ("paddlex", "SAM-H", capabilities)
    assert [n for n in reread.tensors if not np.array_equal(reread.tensors[n], checkpoint.tensors[n])] == []
    assert sorted(file.name for file in directory.iterdir()) == [
        "inference.json",
        "inference.pdiparams",
        "inference.yml",
    ]
    assert [path.name for path in directory.parent.iterdir()] == ["SAM-H_infer"]


def test_the_box_and_point_exports_merge_to_all_but_the_score_and_mask_input(exported):
    merged = weights.merge(weights.read(exported["box"]), weights.read(exported["point"]))
    assert merged.capabilities == set(parameters.CAPABILITIES) - {"score", "mask_input"}


def test_a_native_export_reads_back_the_same(checkpoint, tmp_path):
    reread = weights.read(export(checkpoint, tmp_path / "mine", "native"))
    assert (reread.format, reread.name, reread.config) == ("native", "mine", checkpoint.config)
    assert checkpoints.differing(reread, checkpoint.tensors) == []


def test_an_export_replaces_an_earlier_one(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "mine", "native")
    other = checkpoints.random_checkpoint(MINUTE, 5)
    assert checkpoints.differing(weights.read(export(other, tmp_path / "mine", "native")), other.tensors) == []


def test_weights_that_lack_the_prompt_are_not_exported_for_it(tmp_path):
    only_points = checkpoints.random_checkpoint(MINUTE, without=("boxes",))
    with pytest.raises(weights.WeightsError, match="expected weights that take boxes"):
        export(only_points, tmp_path / "box")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(checkpoint, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(weights.WeightsError, match="expected a directory to write to"):
        export(checkpoint, tmp_path / "file" / "inside", "native")


@pytest.mark.parametrize("count", [1, 3])
def test_the_exported_graph_gives_the_decoders_logits(checkpoint, exported, count):
    import paddle

    from model.build import load_decoder, load_encoder
    from model.transforms import normalize, preprocess

    image = photo(32, 32)
    prompts = [Prompt(box=np.array([2, 3, 20 + at, 25], np.float32)) for at in range(count)]
    embedding = load_encoder(checkpoint, "cpu").encode(image)
    ours = load_decoder(checkpoint, "cpu").decode(embedding, prompts, multimask_output=False)
    graph = paddle.jit.load(str(exported["box"] / "inference"))
    pixels = normalize(preprocess(image, MINUTE).pixels, MINUTE)
    theirs = graph(paddle.to_tensor(pixels[np.newaxis]), paddle.to_tensor(np.stack([p.box for p in prompts]))).numpy()
    np.testing.assert_allclose(theirs, np.stack(ours.low_res_masks), atol=1e-4)


def test_inspect_shows_what_the_weights_are(checkpoint, tmp_path):
    directory = export(checkpoint, tmp_path / "mine", "native")
    summary = inspect(directory / "model.safetensors", name="mine")
    assert (summary.format, summary.input_size, summary.config) == ("native", (32, 32), MINUTE)
    assert summary.capabilities == parameters.CAPABILITIES
    assert summary.parameter_count == sum(value.size for value in checkpoint.tensors.values())
    assert summary.nbytes == (directory / "model.safetensors").stat().st_size
    assert summary.model_version == f"mine@{summary.digest[:8]}"


def paddlex_python() -> Path:
    """The interpreter that has PaddleX, or a skip that says how to name one."""
    python = Path(os.environ.get("PADDLEX_PYTHON") or Path(__file__).parents[3] / ".venv-paddlex" / "bin" / "python")
    if not python.exists():
        pytest.skip(f"no PaddleX: {python} is absent; set PADDLEX_PYTHON to an interpreter with paddlex==3.7.2")
    return python


def answer_of_paddlex(directory: Path, name: str, image: np.ndarray, prompts: np.ndarray, folder: Path) -> np.ndarray:
    """The masks (N, H, W) that PaddleX makes."""
    question, answer = folder / "question.npz", folder / "answer.npz"
    np.savez(question, image=image, prompts=prompts)
    script = Path(__file__).parents[2] / "support" / "paddlex_reference.py"
    environment = {**os.environ, "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "1"}
    command = [paddlex_python(), script, name, directory, question, answer]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return np.load(answer)["masks"].reshape(-1, *image.shape[:2]).astype(bool)


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["box", "point"])
@pytest.mark.parametrize("config", [MINUTE, vit_b(256), None], ids=["minute", "vit_b at 256", "demo"])
def test_paddlex_runs_an_exported_directory_and_gives_our_masks(tmp_path, config, kind):
    from model.build import load_decoder, load_encoder

    paddlex_python()
    checkpoint = checkpoints.random_checkpoint(config, 3) if config else weights.read(DEMO_WEIGHTS)
    image, prompts = photo(150, 200), BOXES if kind == "box" else POINT
    directory = export(checkpoint, tmp_path / "exported", prompt=kind)
    theirs = answer_of_paddlex(directory, f"SAM-H_{kind}", image, prompts, tmp_path)
    prompts_of_kind = [Prompt(box=box) for box in prompts] if kind == "box" else [Prompt(prompts, np.array([1]))]
    embedding = load_encoder(checkpoint, "cpu").encode(image)
    ours = load_decoder(checkpoint, "cpu").decode(embedding, prompts_of_kind, multimask_output=False)
    masks = [masks[0].to_array() for masks in ours.masks]
    assert len(theirs) == len(masks)
    assert max(int((a != b).sum()) for a, b in zip(masks, theirs, strict=True)) <= 2
    assert all(0 < mask.sum() < mask.size for mask in masks)  # empty masks would agree about nothing


def test_a_network_with_another_trunk_is_exported_and_read_too(tmp_path):
    from model.build import image_encoder

    config = SamConfig("demo", ConvConfig((8, 8, 16), (1, 1, 1), 1, 2), 64, 8, prompt_embed_dim=32, decoder_mlp_dim=32)
    rng = np.random.default_rng(0)
    trunk = {
        f"image_encoder.{name}": rng.standard_normal(parameter.shape).astype(np.float32) * 0.1
        for name, parameter in image_encoder(config).named_parameters()
    }
    tensors = {**checkpoints.random_tensors(config), **trunk}
    checkpoint = weights.Checkpoint("demo", config, tensors, "0" * 64, "native", tmp_path)
    reread = weights.read(export(checkpoint, tmp_path / "demo"))
    assert reread.config == config
    assert [name for name in reread.tensors if not np.array_equal(reread.tensors[name], tensors[name])] == []
