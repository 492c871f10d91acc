"""A fine-tuned decoder is a small file that works with the weights it was made from, and with no others."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save

from model import folders
from model import weights as model_weights
from model.build import load_decoder, load_encoder
from model.cli import main
from model.finetuning.network import TrainableDecoder
from model.types import Prompt
from model.weights import WeightsError, decoder_weights, sam2_names
from model.weights.checkpoint import Checkpoint
from model.weights.decoder_weights import KEY, DecoderInfo, TrainingFigures, own_tensors
from model.weights.export import export
from model.weights.formats import native
from tests.reference.random_weights import photo
from tests.support.checkpoints import differing, random_checkpoint, to_torch_layout
from tests.support.families import FAMILIES

POINT = Prompt(np.array([[20.0, 20.0]]), np.array([1]))
BASE = random_checkpoint()


def info_of(base: Checkpoint, **changes: object) -> DecoderInfo:
    figures = TrainingFigures(60, 300, {"click": 0.70}, {"click": 0.78})
    info = DecoderInfo(base.name, base.digest, base.config.family, 12, "2026-01-31T12:00:00Z", figures)
    return replace(info, **changes)


def changed_tensors(base: Checkpoint) -> dict[str, np.ndarray]:
    tensors = own_tensors(base)
    name = "mask_decoder.output_upscaling.3.bias"
    return {**tensors, name: tensors[name] + 0.5}


CONTENTS = decoder_weights.dump(info_of(BASE), changed_tensors(BASE))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_of_every_family_answers_about_embeddings_of_its_base(family, tmp_path):
    base = FAMILIES[family]()
    path = folders.write(tmp_path / "a" / "d", decoder_weights.dump(info_of(base), changed_tensors(base)))
    decoder = decoder_weights.read(path)
    tuned = decoder_weights.apply(base, decoder)
    assert decoder.info == info_of(base)
    assert tuned.encoder_version == base.model_version
    assert tuned.model_version == f"{base.model_version}+p12-{decoder.digest[:8]}"
    embedding = load_encoder(tuned, "cpu").encode(photo(64, 48))
    assert embedding.model_version == base.model_version
    logits = [
        load_decoder(checkpoint, "cpu").decode(embedding, POINT, False).low_res_masks[0] for checkpoint in (base, tuned)
    ]
    assert np.abs(logits[0] - logits[1]).max() > 0
    assert [name for name in base.tensors if name not in tuned.tensors] == []


@pytest.mark.parametrize("family", ["sam", "sam2.1"])  # the others prepare what SAM does
def test_what_is_prepared_of_an_image_serves_the_base_and_what_is_fine_tuned_of_it(family):
    base = FAMILIES[family]()
    tuned = decoder_weights.apply(base, decoder_weights.parse(decoder_weights.dump(info_of(base), learned(base))))
    embedding = load_encoder(base, "cpu").encode(photo(64, 48))
    decoders = [load_decoder(each, "cpu") for each in (base, tuned)]
    decoders[0].decode(embedding, POINT)
    prepared = embedding.prepared.get(decoders[0].prepared_version)
    decoders[1].decode(embedding, POINT)
    assert prepared is not None
    assert embedding.prepared.get(decoders[1].prepared_version) is prepared


def learned(base: Checkpoint) -> dict[str, np.ndarray]:
    """The tensors of a decoder of which every parameter changed that a training changes."""
    changed = TrainableDecoder(base, "cpu", pull=0.0).values()
    return {name: changed[name] + 0.1 if name in changed else value for name, value in own_tensors(base).items()}


def test_the_same_values_give_the_same_file():
    contents = [decoder_weights.dump(info_of(BASE), changed_tensors(BASE)) for _ in range(3)]
    assert contents[0] == contents[1] == contents[2]


def test_the_checkpoint_that_a_decoder_is_applied_to_stays_as_it_is():
    before = {name: BASE.tensors[name].copy() for name in BASE.tensors}
    tuned = decoder_weights.apply(BASE, decoder_weights.parse(CONTENTS))
    assert BASE.model_version == f"random@{'0' * 8}"
    assert [name for name in before if not np.array_equal(before[name], BASE.tensors[name])] == []
    assert [name for name in before if not np.array_equal(before[name], tuned.tensors[name])] == [
        "mask_decoder.output_upscaling.3.bias"
    ]


def test_a_decoder_of_other_weights_is_refused_in_one_sentence():
    decoder = decoder_weights.parse(CONTENTS)
    other_base = replace(random_checkpoint(seed=7), digest="1" * 64)
    with pytest.raises(
        WeightsError, match=r"expected its base random@00000000, got random@11111111; use those"
    ) as error:
        decoder_weights.apply(other_base, decoder)
    assert "\n" not in str(error.value)


def test_a_decoder_that_lacks_parameters_of_its_base_is_refused():
    tensors = changed_tensors(BASE)
    tensors.pop("mask_decoder.iou_token.weight")
    decoder = decoder_weights.parse(decoder_weights.dump(info_of(BASE), tensors))
    with pytest.raises(WeightsError, match="expected the parameters of random@00000000, got others"):
        decoder_weights.apply(BASE, decoder)


ONE = {"mask_decoder.iou_token.weight": np.ones(3, np.float32)}
FIELDS = json.dumps({"base_name": "a", "base_digest": "b", "family": "sam", "project": 1, "created": ""})


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"", "expected a fine-tuned decoder"),
        (CONTENTS[:-1], "expected a fine-tuned decoder"),
        (CONTENTS[:100], "expected a fine-tuned decoder"),
        (b"\xff" * 100, "expected a fine-tuned decoder"),
        (save(ONE), "with paddle-sam-decoder in its metadata, got none"),
        (save(ONE, {"format": "pt"}), "with paddle-sam-decoder in its metadata, got none"),
        (save(ONE, {KEY: "[]"}), "Expected `object`"),
        (save(ONE, {KEY: FIELDS.replace("1,", '"one",')}), "Expected `int`"),
        (save(ONE, {KEY: FIELDS[:-1] + ', "format_version": 2}'}), "format version 1, got 2"),
        (save({"image_encoder.pos_embed": np.ones(3, np.float32)}, {KEY: FIELDS}), "expected a decoder's parameter"),
        (save({"mask_decoder.a": np.full(3, np.nan, np.float32)}, {KEY: FIELDS}), "finite float32"),
        (save({"mask_decoder.a": np.ones(3, np.float16)}, {KEY: FIELDS}), "finite float32"),
    ],
)
def test_what_is_no_decoder_is_refused_with_its_name_and_a_reason(contents, complaint, tmp_path):
    path = tmp_path / "p12.safetensors"
    path.write_bytes(contents)
    with pytest.raises(WeightsError, match=complaint) as error:
        decoder_weights.read(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_an_error_of_the_same_kind(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        decoder_weights.read(tmp_path / "none")


def test_weights_with_a_fine_tuned_decoder_are_exported_like_any_others(tmp_path):
    tuned = decoder_weights.apply(BASE, decoder_weights.parse(CONTENTS))
    checkpoint = model_weights.read(export(tuned, tmp_path / "tuned", "native"))
    name = "mask_decoder.output_upscaling.3.bias"
    assert np.array_equal(checkpoint.tensors[name], BASE.tensors[name] + 0.5)


def test_the_command_line_takes_a_decoder_and_writes_the_whole_as_metas_file(tmp_path):
    path = folders.write(tmp_path / "decoder.safetensors", CONTENTS)
    base = native.write(BASE, tmp_path / "random.safetensors")
    base_read = model_weights.read(base)
    path.write_bytes(decoder_weights.dump(info_of(base_read), changed_tensors(BASE)))
    call = ["export", str(tmp_path / "out"), "--format", "meta", "--weights", str(base), "--decoder", str(path)]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    checkpoint = model_weights.read(tmp_path / "out" / "model.pth")
    assert checkpoint.format == "meta"
    assert differing(checkpoint, {name: BASE.tensors[name] for name in BASE.tensors} | changed_tensors(BASE)) == []
    other = folders.write(tmp_path / "other", CONTENTS)
    result = CliRunner().invoke(main, [*call[:-1], str(other)])
    assert result.exit_code != 0
    assert "expected its base random@00000000, got random@" in result.output


@pytest.mark.reference
@pytest.mark.parametrize("family", ["demo", "mobile_sam", "sam2.1"])
def test_of_other_networks_metas_file_holds_the_decoder_alone(family, tmp_path):
    import torch

    base = FAMILIES[family]()
    path = export(base, tmp_path / "out", "meta") / "model.pth"
    tensors = torch.load(path, weights_only=True)
    expected = own_tensors(base)
    assert len(tensors) == len(expected)
    prefix = "sam_" if family == "sam2.1" else ""
    assert all(name.startswith((f"{prefix}prompt_encoder.", f"{prefix}mask_decoder.")) for name in tensors)
    if family == "sam2.1":
        tensors = sam2_names.from_meta(tensors)
    laid_out = to_torch_layout(expected)
    assert set(tensors) == set(laid_out)
    assert [name for name in laid_out if not np.array_equal(tensors[name].numpy(), laid_out[name])] == []
