"""What `export` writes of any network gives the same numbers and the same masks when it is read again."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from model import create_model, weights
from model.build import load_decoder, load_encoder
from model.cli import main
from model.config import SamConfig, VitConfig, demo
from model.paddlex.model import DEMO_WEIGHTS
from model.types import Prompt
from model.weights.export import export
from model.weights.formats import native, paddlex
from tests.golden.paddlex.make import MINUTE
from tests.reference.random_weights import photo
from tests.support import checkpoints

QUICK = ("demo", "of four heads")
"""Of these two both exports are checked at every change: Paddle takes its time over a graph."""
BOX, POINT = Prompt(box=np.array([20, 10, 90, 60])), Prompt(np.array([[50, 40]]), np.array([1]))


def shaped(depth: int, heads: int, every: int, decoder_heads: int = 8) -> SamConfig:
    """A narrow network with the blocks, heads and global blocks of a published one."""
    blocks = tuple(range(every - 1, depth, every))
    encoder = VitConfig(embed_dim=4 * heads, depth=depth, num_heads=heads, global_attn_indexes=blocks, window_size=3)
    sizes = {"prompt_embed_dim": 32, "decoder_mlp_dim": 32, "iou_head_hidden_dim": 32}
    return SamConfig("shaped", encoder, 64, decoder_num_heads=decoder_heads, **sizes)


NETWORKS = {
    "demo": None,
    "tiny": checkpoints.tiny(),
    "minute": MINUTE,
    "as vit_b": shaped(12, 12, 3),
    "as vit_l": shaped(24, 16, 6),
    "as vit_h": shaped(32, 16, 8),
    "of four heads": shaped(2, 2, 2, decoder_heads=4),
}


@cache
def network(name: str) -> weights.Checkpoint:
    config = NETWORKS[name]
    return weights.read(DEMO_WEIGHTS) if config is None else checkpoints.random_checkpoint(config, 3)


@cache
def answers(name: str) -> list[np.ndarray]:
    return masks(network(name), [BOX, POINT])


def masks(checkpoint: weights.Checkpoint, prompts: list[Prompt]) -> list[np.ndarray]:
    embedding = load_encoder(checkpoint, "cpu").encode(photo(80, 120))
    answer = load_decoder(checkpoint, "cpu").decode(embedding, prompts, multimask_output=False)
    return [row[0].to_array() for row in answer.masks]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports for PaddleX, each made once."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def make(name: str, prompt: str) -> Path:
        return export(network(name), folder / name / f"SAM-H_{prompt}_infer", "paddlex", prompt)

    return make


@pytest.fixture
def copy(exported, tmp_path):
    """Copies of exports, for a test to change."""
    return lambda name, prompt: Path(shutil.copytree(exported(name, prompt), tmp_path / f"SAM-H_{prompt}_infer"))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_native_export_gives_the_same_numbers_and_masks(tmp_path, name):
    checkpoint = weights.read(export(network(name), tmp_path / "exported", "native"))
    assert checkpoint.config == network(name).config
    assert checkpoints.differing(checkpoint, network(name).tensors) == []
    for first, second in zip(masks(checkpoint, [BOX, POINT]), answers(name), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("prompt", ["box", "point"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NETWORKS]
)
def test_a_paddlex_export_gives_the_same_numbers_and_masks(exported, name, prompt):
    checkpoint = weights.read(exported(name, prompt))
    assert checkpoint.config == network(name).config
    assert [
        key for key in checkpoint.tensors if not np.array_equal(checkpoint.tensors[key], network(name).tensors[key])
    ] == []
    prompts_of_kind, expected = (BOX, answers(name)[0]) if prompt == "box" else (POINT, answers(name)[1])
    assert expected.any()
    np.testing.assert_array_equal(masks(checkpoint, [prompts_of_kind])[0], expected)


def test_the_exported_demo_model_is_read_by_every_command_and_by_create_model(tmp_path):
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    directory, image = tmp_path / "SAM-H_box_infer", tmp_path / "photo.png"
    Image.fromarray(photo(80, 120)).save(image)
    run("export", "--format", "paddlex", directory)
    assert "conv: widths" in run("inspect", directory)
    run("segment", image, "--weights", directory, "--box", "20,10,90,60", "--out", tmp_path / "out")
    with Image.open(tmp_path / "out" / "photo_mask_1.png") as written:
        np.testing.assert_array_equal(np.asarray(written) > 0, answers("demo")[0])
    (result,) = create_model("SAM-H_box", directory).predict(str(image), prompts={"box_prompt": [[20, 10, 90, 60]]})
    np.testing.assert_array_equal(result["masks"][0] == 1, answers("demo")[0])
    run("export", "--format", "native", "--weights", directory, tmp_path / "again")
    assert weights.read(tmp_path / "again").config == network("demo").config


def test_numbers_of_heads_that_differ_are_models_that_differ(copy):
    directory = copy("of four heads", "box")
    version = weights.read(directory).model_version
    path = directory / paddlex.DESCRIPTION
    path.write_text(path.read_text().replace('"decoder_num_heads": 4', '"decoder_num_heads": 8'))
    changed = weights.read(directory)
    assert changed.config.decoder_num_heads == 8
    assert changed.model_version != version


def test_exports_that_differ_in_heads_alone_do_not_merge(copy):
    directory, other = (copy("of four heads", prompt) for prompt in ("box", "point"))
    assert weights.merge(weights.read(directory), weights.read(other)).config == network("of four heads").config
    path = other / paddlex.DESCRIPTION
    path.write_text(path.read_text().replace('"decoder_num_heads": 4', '"decoder_num_heads": 8'))
    with pytest.raises(weights.WeightsError, match="expected exports of one network"):
        weights.merge(weights.read(directory), weights.read(other))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"image_size": 64', '"image_size": 128', "expected shape"),
        ('"depth": 2', '"depth": 3', "expected parameter"),
        ('"decoder_num_heads": 4', '"decoder_num_heads": 5', "decoder_num_heads"),
        ('"kind": "vit"', '"kind": "swin"', "expected a SAM configuration"),
        ("size: 64", "size: 65", "expected Processor.size 64 as in the weights, got 65"),
    ],
)
def test_a_description_of_another_network_is_refused(copy, old, new, sentence):
    directory = copy("of four heads", "box")
    path = directory / paddlex.DESCRIPTION
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(weights.WeightsError, match="expected") as caught:
        weights.read(directory)
    assert sentence in str(caught.value)


def test_a_description_of_another_trunk_is_refused_in_a_sentence(copy):
    directory = copy("demo", "box")
    path = directory / paddlex.DESCRIPTION
    whole = path.read_text()
    for old, new in (
        ('"depths": [2, 2, 1]', '"depths": [2, 1, 2]'),
        ('"widths": [48, 96, 160]', '"widths": [40, 96, 160]'),
        ('"fuse_depth": 2', '"fuse_depth": 3'),
        ("PaddleSAM:", "Other:"),
    ):
        assert old in whole
        path.write_text(whole.replace(old, new))
        with pytest.raises(weights.WeightsError, match=r"inference\.json: .*expected"):
            weights.read(directory)


def test_the_trunk_of_the_demo_model_has_the_parameters_that_are_listed():
    from model.build import image_encoder
    from model.weights import parameters

    shapes = {
        f"image_encoder.{name}": tuple(parameter.shape) for name, parameter in image_encoder(demo()).named_parameters()
    }
    listed = parameters.conv_trunk(demo())
    assert listed == shapes
    assert list(listed)[:2] == ["image_encoder.stem.0.weight", "image_encoder.stem.0.bias"]
    assert parameters.conv_trunk(checkpoints.tiny()) == {}


def test_a_native_file_reads_the_same_from_its_directory(tmp_path):
    path = native.write(network("tiny"), tmp_path / "mine.safetensors")
    assert weights.read(tmp_path).model_version == weights.read(path).model_version
