"""SAM 2.1 against Meta's own code and against transformers', with random weights and on the same input."""

from importlib.util import find_spec

import numpy as np
import pytest

from model import weights
from model.build import load_decoder, load_encoder
from model.config import (
    SamConfig,
    sam2_1_hiera_base_plus,
    sam2_1_hiera_large,
    sam2_1_hiera_small,
    sam2_1_hiera_tiny,
)
from model.modeling.tokens import as_array, concat
from model.transforms import normalize, preprocess
from model.types import Embedding, Masks, Prompt
from model.weights.parameters import is_linear_weight
from tests.reference.prompts import KINDS, prompt
from tests.reference.random_weights import photo
from tests.reference.sam2_weights import lively_sam2
from tests.support.checkpoints import checkpoint_of
from tests.support.sam2_files import huggingface_name, meta_name, tiny_sam2

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        find_spec("sam2") is None, reason="sam2 is not installed; see tests/reference/requirements-sam2.txt"
    ),
]

EMBEDDING, LOGITS, SCORES, SAME = 1e-4, 1e-3, 1e-4, 0.9999
SIZES = [(200, 300), (401, 299), (1, 1), (5000, 40)]
PUBLISHED = [sam2_1_hiera_tiny, sam2_1_hiera_small, sam2_1_hiera_base_plus, sam2_1_hiera_large]


class Subject:
    """One network of ours and of both references, that have seen the same numbers of one photo."""

    def __init__(self, config: SamConfig, size: tuple[int, int]) -> None:
        from tests.reference import sam2_huggingface, sam2_meta

        self.size, self.low = size, config.low_res_size
        tensors, image = lively_sam2(config), photo(*size)
        checkpoint = checkpoint_of(config, tensors)
        self.decoder = load_decoder(checkpoint, device="cpu")
        self.embedding: Embedding = load_encoder(checkpoint, device="cpu").encode(image)
        pixels = normalize(preprocess(image, config).pixels, config)
        self.scale = np.array([config.image_size / size[1], config.image_size / size[0]])
        self.meta = sam2_meta.predictor(sam2_meta.build_sam2(config, tensors), image, pixels)
        self.transformers = sam2_huggingface.build_model(config, tensors)
        self.their_maps = sam2_huggingface.embed(self.transformers, pixels)

    def answer(self, kind: str, multimask_output: bool) -> tuple[Prompt, Masks]:
        prompt_of_kind = prompt(kind, self.size, self.low)
        return prompt_of_kind, self.decoder.decode(self.embedding, prompt_of_kind, multimask_output)


@pytest.fixture(scope="module", params=SIZES, ids=str)
def small(request):
    return Subject(tiny_sam2(), request.param)


def check_embedding(subject: Subject) -> None:
    features = subject.meta._features
    metas = [features["image_embed"][0].numpy(), *(each[0].numpy() for each in features["high_res_feats"])]
    for name, ours, meta, theirs in zip(
        subject.embedding.maps, subject.embedding.maps.values(), metas, subject.their_maps, strict=True
    ):
        scale = np.abs(meta).max()
        assert scale > 0.5, name
        assert np.abs(ours - meta).max() <= EMBEDDING * scale, name
        assert np.abs(ours - theirs).max() <= EMBEDDING * scale, name


def check_against_meta(subject: Subject, kind: str, multimask_output: bool) -> None:
    from tests.reference import sam2_meta

    prompt_of_kind, answer = subject.answer(kind, multimask_output)
    masks, scores, low_res = sam2_meta.predict(subject.meta, prompt_of_kind, multimask_output)
    assert np.abs(low_res).max() > 1
    assert np.abs(answer.low_res_masks[0] - low_res).max() <= LOGITS
    assert np.abs(answer.iou_predictions[0] - scores).max() <= SCORES
    ours = np.stack([mask.to_array() for mask in answer.masks[0]])
    assert np.count_nonzero(ours & masks) >= SAME * np.count_nonzero(ours | masks)


def check_against_transformers(subject: Subject, kind: str, multimask_output: bool) -> None:
    from tests.reference import sam2_huggingface

    prompt_of_kind, answer = subject.answer(kind, multimask_output)
    theirs = sam2_huggingface.predict(
        subject.transformers, subject.their_maps, prompt_of_kind, subject.scale, multimask_output
    )
    assert np.abs(answer.low_res_masks[0] - theirs[0].clip(-32, 32)).max() <= LOGITS
    assert np.abs(answer.iou_predictions[0] - theirs[1]).max() <= SCORES


def test_every_map_is_that_of_both(small):
    check_embedding(small)


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_scores_and_masks_are_those_of_metas_code(small, kind, multimask_output):
    check_against_meta(small, kind, multimask_output)


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "mask"]
)  # transformers adds a point to a mask alone
def test_logits_and_scores_are_those_of_transformers(small, kind, multimask_output):
    check_against_transformers(small, kind, multimask_output)


def test_the_score_of_an_object_is_that_of_transformers(small):
    from tests.reference import sam2_huggingface

    box_prompt = prompt("box", small.size, small.low)
    *_, theirs = sam2_huggingface.predict(small.transformers, small.their_maps, box_prompt, small.scale, True)
    decoder, network = small.decoder, small.decoder.mask_decoder
    corners = (box_prompt.box * np.tile(small.scale, 2)).astype(np.float32)[None]
    sparse = concat([decoder.prompt_encoder.boxes(corners), decoder.prompt_encoder.nothing(1)], axis=1)
    image, *skips = decoder.features(small.embedding)
    image = image + decoder.prompt_encoder.dense(None)
    *_, ours = network.with_object_score(image, decoder.image_pe, sparse, [0], *skips)
    assert np.abs(as_array(ours)[0] - theirs).max() <= SCORES


@pytest.mark.parametrize("size", [*SIZES, (3000, 4000), (130, 97)])
def test_preprocessing_is_theirs_to_one_of_255_levels(size):
    from tests.reference.sam2_meta import importing

    with importing():
        from sam2.utils.transforms import SAM2Transforms

        theirs = SAM2Transforms(256, 0.0)(photo(*size)).numpy()
    ours = normalize(preprocess(photo(*size), tiny_sam2(256)).pixels, tiny_sam2(256))
    deviation = np.array([0.229, 0.224, 0.225])[:, None, None]
    assert np.abs((ours - theirs) * deviation).max() <= 1 / 255


@pytest.mark.slow
@pytest.mark.parametrize("make", PUBLISHED)
def test_a_published_size_gives_the_numbers_of_both(make):
    subject = Subject(make(), (600, 800))
    check_embedding(subject)
    for kind in KINDS:
        check_against_meta(subject, kind, multimask_output=kind != "box")
    for kind in ("box", "points", "box_and_points", "points_and_mask"):
        check_against_transformers(subject, kind, multimask_output=kind == "box")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "make"), list(zip(("t", "s", "b+", "l"), PUBLISHED, strict=True)))
def test_a_file_of_metas_own_builder_is_read_to_the_same_numbers(file, make, tmp_path):
    import torch

    from tests.reference.sam2_meta import importing

    with importing():
        from sam2.build_sam import build_sam2

        model = build_sam2(f"configs/sam2.1/sam2.1_hiera_{file}.yaml", device="cpu")
    state = model.state_dict()
    assert any(name.startswith("memory_attention.") for name in state)
    torch.save({"model": state}, tmp_path / f"{make().name}.pt")
    checkpoint = weights.read(tmp_path / f"{make().name}.pt")
    assert (checkpoint.config, checkpoint.format) == (make(), "meta")
    for name, ours in checkpoint.tensors.items():
        theirs = state[meta_name(name)].numpy()
        assert np.array_equal(ours, theirs.T if is_linear_weight(name) else theirs), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Sam2Model", "Sam2VideoModel"])
def test_a_directory_that_transformers_saved_is_read_to_the_same_numbers(kind, tmp_path):
    import transformers

    model = getattr(transformers, kind)(getattr(transformers, kind.replace("Model", "Config"))())
    model.save_pretrained(tmp_path / "sam2.1-hiera-tiny")
    checkpoint = weights.read(tmp_path / "sam2.1-hiera-tiny")
    assert (checkpoint.config, checkpoint.format) == (sam2_1_hiera_tiny(), "huggingface")
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for name, ours in checkpoint.tensors.items():
        if "point_embeddings" in name:
            theirs = state["prompt_encoder.point_embed.weight"][int(name.split(".")[-2])][None]
        else:
            theirs = state[huggingface_name(name)]
        assert np.array_equal(ours, theirs.T if is_linear_weight(name) else theirs), name
