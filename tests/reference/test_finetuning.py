"""Losses, gradients and exported decoders are those of segment-anything's modules in torch."""

import importlib
import sys
import types

import numpy as np
import pytest
from click.testing import CliRunner

from model import folders, weights
from model.build import load_decoder, load_encoder
from model.cli import main
from model.finetuning import losses
from model.finetuning.network import TrainableDecoder
from model.transforms import points_to_model
from model.types import Prompt
from model.weights import decoder_weights
from tests.reference.random_weights import lively_tensors, photo
from tests.support.checkpoints import tiny, to_torch_layout
from tests.support.decoder_files import decoder_file
from tests.support.families import write_family

pytestmark = pytest.mark.reference

TOLERANCE = 1e-3
POINTS = np.array([[[40.0, 30.0]], [[80.0, 55.0]], [[20.0, 60.0]]], np.float32)
BOXES = np.array([[20.0, 10.0, 90.0, 60.0], [5.0, 5.0, 50.0, 40.0], [60.0, 30.0, 118.0, 88.0]], np.float32)


def cases(low):
    """Prompts by name: each kind of first prompt, and a correction with the logits before it."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (3, low, low)).astype(np.float32)
    more = np.concatenate([POINTS, POINTS[::-1]], axis=1)
    return {
        "click": [Prompt(p, np.array([1])) for p in POINTS],
        "box": [Prompt(box=box) for box in BOXES],
        "corrected click": [Prompt(p, np.array([1, 0]), mask_input=mask) for p, mask in zip(more, logits, strict=True)],
        "corrected box": [
            Prompt(p, np.array([0]), box, mask) for p, box, mask in zip(POINTS, BOXES, logits, strict=True)
        ],
    }


def meta_losses():
    """Meta's ``training/loss_fns.py`` of SAM 2, without the trainer that it imports."""
    trainer = types.ModuleType("training.trainer")
    trainer.CORE_LOSS_KEY = "core_loss"
    distributed = types.ModuleType("training.utils.distributed")
    distributed.get_world_size, distributed.is_dist_avail_and_initialized = lambda: 1, lambda: False
    stand_ins = {"training.trainer": trainer, "training.utils": types.ModuleType("training.utils")}
    stand_ins["training.utils.distributed"] = distributed
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules |= stand_ins
    try:
        return importlib.import_module("training.loss_fns")
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same weights in both, and the embedding of a photo."""
    import torch

    from tests.reference.meta import build_sam

    config = tiny()
    sam = build_sam(config, lively_tensors(config))
    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(sam.state_dict(), path)
    checkpoint = weights.read(path)
    return sam, checkpoint, load_encoder(checkpoint, "cpu").encode(photo(96, 128))


def torch_loss(sam, embedding, prompts, targets, several):
    """Meta's forward pass and losses, weighted as in SAM: the loss, ready for its gradients."""
    import torch

    sizes = embedding.original_size, embedding.input_size
    points = boxes = masks = None
    if prompts[0].point_coords is not None:
        coords = np.stack([points_to_model(p.point_coords, *sizes) for p in prompts])
        points = torch.from_numpy(coords), torch.from_numpy(np.stack([p.point_labels for p in prompts]))
    if prompts[0].box is not None:
        corners = np.stack([points_to_model(p.box.reshape(2, 2), *sizes) for p in prompts])
        boxes = torch.from_numpy(corners.reshape(-1, 4))
    if prompts[0].mask_input is not None:
        masks = torch.from_numpy(np.stack([p.mask_input for p in prompts]))[:, None]
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
    logits, predicted = sam.mask_decoder(
        image_embeddings=torch.from_numpy(np.array(embedding.image_embedding, np.float32))[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=several,
    )
    functions, wanted, count = meta_losses(), torch.from_numpy(targets).expand_as(logits), len(prompts)
    focal = functions.sigmoid_focal_loss(logits, wanted, count, loss_on_multimask=True)
    dice = functions.dice_loss(logits, wanted, count, loss_on_multimask=True)
    squares = functions.iou_loss(logits, wanted, predicted, count, loss_on_multimask=True)
    return (20 * focal + dice).min(dim=1).values.sum() + squares.mean(dim=1).sum()


@pytest.mark.parametrize("kind", cases(1))
def test_losses_and_gradients_are_those_of_metas_modules(pair, kind):
    import paddle

    sam, checkpoint, embedding = pair
    low = checkpoint.config.low_res_size
    prompts = cases(low)[kind]
    targets = (np.random.default_rng(5).random((3, 1, low, low)) > 0.7).astype(np.float32)
    sam.zero_grad()
    expected = torch_loss(sam, embedding, prompts, targets, prompts[0].is_single_point)
    expected.backward()
    ours = TrainableDecoder(checkpoint, "cpu", pull=0.0, others=0.0)
    features = ours.decoder.features(embedding)
    _, _, gradients = ours.add_gradients(features, prompts, embedding, paddle.to_tensor(targets), 1.0)
    assert gradients == pytest.approx(expected.item(), rel=TOLERANCE)
    wanted = {name: p.grad for name, p in sam.named_parameters() if p.grad is not None}
    layout = to_torch_layout({name: g.numpy() for name, g in ours.gradients().items()})
    scale = max(float(g.norm()) for g in wanted.values())
    differing = [
        name
        for name, gradient in wanted.items()
        if name in ours.parameters
        and np.linalg.norm(layout.get(name, np.zeros(gradient.shape)) - gradient.numpy())
        > TOLERANCE * float(gradient.norm()) + 1e-6 * scale
    ]
    assert differing == []
    assert len(wanted) > 50
    assert set(layout) <= set(wanted)


def test_a_step_of_adam_is_that_of_torch(pair):
    import paddle
    import torch

    sam, checkpoint, embedding = pair
    low = checkpoint.config.low_res_size
    prompts = cases(low)["click"]
    targets = np.zeros((3, 1, low, low), np.float32)
    targets[:, :, 5:20, 8:25] = 1
    ours = TrainableDecoder(checkpoint, "cpu", pull=0.0, others=0.0)
    theirs = [p for name, p in sam.named_parameters() if name in ours.parameters]
    adam = torch.optim.Adam(theirs, lr=1e-3, betas=(0.9, 0.99))
    before = {name: value.copy() for name, value in ours.values().items()}
    for _ in range(3):
        sam.zero_grad()
        torch_loss(sam, embedding, prompts, targets, True).backward()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adam.step()
        ours.add_gradients(ours.decoder.features(embedding), prompts, embedding, paddle.to_tensor(targets), 1.0)
        ours.step(1e-3)
    values = to_torch_layout(ours.values())
    moved = to_torch_layout(before)
    name = "mask_decoder.output_upscaling.3.weight"
    expected = dict(sam.named_parameters())[name].detach().numpy()
    assert np.abs(expected - moved[name]).max() > 1e-3
    assert np.allclose(values[name], expected, atol=1e-4)


def test_losses_of_single_values_are_as_computed_by_hand():
    import paddle

    logits, targets = paddle.to_tensor(np.zeros((1, 2, 2, 2), np.float32)), paddle.ones([1, 1, 2, 2])
    assert losses.focal_loss(logits, targets).numpy() == pytest.approx(0.25 * np.log(2) * 0.25)
    assert losses.dice_loss(logits, targets).numpy() == pytest.approx(1 - 5 / 7)


@pytest.mark.parametrize("family", ["sam", "demo"])
def test_an_exported_decoder_answers_in_metas_package_as_it_does_here(family, tmp_path):
    import torch

    from tests.reference.demo_network import build_demo
    from tests.reference.meta import build_sam, predict, predictor

    base = weights.read(write_family(family, tmp_path))
    path = folders.write(tmp_path / "decoder", decoder_file(base, seed=3))
    arguments = ["--format", "meta", "--weights", str(base.path), "--decoder", str(path)]
    result = CliRunner().invoke(main, ["export", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 0, result.output
    sam = (build_sam if family == "sam" else build_demo)(
        base.config, {name: base.tensors[name].copy() for name in base.tensors}
    )
    image, point_prompt = photo(96, 128), Prompt(np.array([[40.0, 30.0]]), np.array([1]))
    _, _, before = predict(predictor(sam, image), point_prompt, True)
    missing_keys = sam.load_state_dict(torch.load(tmp_path / "out" / "model.pth"), strict=family == "sam")
    assert missing_keys.unexpected_keys == []
    assert [name for name in missing_keys.missing_keys if not name.startswith("image_encoder.")] == []
    tuned = decoder_weights.apply(base, decoder_weights.read(path))
    ours = load_decoder(tuned, "cpu").decode(load_encoder(tuned, "cpu").encode(image), point_prompt, True)
    _, _, after = predict(predictor(sam, image), point_prompt, True)
    assert np.abs(after - before).max() > 0.1
    assert np.abs(after - ours.low_res_masks[0]).max() <= 1e-3
