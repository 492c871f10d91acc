"""The readers against files that the reference implementations write themselves."""

import numpy as np
import pytest

from model import weights
from tests.reference.random_weights import lively_tensors, photo
from tests.support import checkpoints

pytestmark = pytest.mark.reference


def test_what_transformers_saves_is_read_value_by_value(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.SamModel(
        transformers.SamConfig(
            vision_config={
                "hidden_size": 32,
                "output_channels": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 128,
                "window_size": 3,
                "global_attn_indexes": [1],
                "num_pos_feats": 16,
            },
            prompt_encoder_config={"hidden_size": 32, "image_size": 128},
            mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32, "num_attention_heads": 4},
        )
    )
    model.save_pretrained(tmp_path)
    checkpoint = weights.read(tmp_path)
    theirs = model.state_dict()
    for name, value in checkpoints.to_torch_layout(dict(checkpoint.tensors)).items():
        assert np.array_equal(value, theirs[checkpoints.huggingface_name(name)].numpy()), name
    assert (checkpoint.config.decoder_num_heads, checkpoint.config.image_size) == (4, 128)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch about itself
@pytest.mark.parametrize("is_zip", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("wrap", ["as it is", "data parallel", "compiled", "part of another", "compiled encoder"])
def test_a_training_run_of_metas_code_gives_the_masks_that_metas_code_gives(tmp_path, wrap, is_zip):
    torch = pytest.importorskip("torch")
    from model.build import load_decoder, load_encoder
    from model.types import Prompt
    from tests.reference import meta

    sam = meta.build_sam(checkpoints.tiny(), lively_tensors(checkpoints.tiny()))
    image = photo(90, 120)
    expected, _, _ = meta.predictor(sam, image).predict(box=np.array([20, 10, 100, 80]), multimask_output=False)
    if wrap == "compiled encoder":
        sam.image_encoder = torch.compile(sam.image_encoder)
    wrapped = {
        "data parallel": lambda: torch.nn.DataParallel(sam),
        "compiled": lambda: torch.compile(sam),
        "part of another": lambda: torch.nn.ModuleDict({"sam": sam}),
    }.get(wrap, lambda: sam)()
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.0, weight_decay=0.0)
    sum(parameter.sum() for parameter in wrapped.parameters()).backward()
    optimizer.step()
    run = {"model": wrapped.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(run, tmp_path / "medsam_model_best.pth", _use_new_zipfile_serialization=is_zip)
    checkpoint = weights.read(tmp_path / "medsam_model_best.pth")
    answer = load_decoder(checkpoint, "cpu").decode(
        load_encoder(checkpoint, "cpu").encode(image), [Prompt(box=np.array([20, 10, 100, 80]))], multimask_output=False
    )
    mask = answer.masks[0][0].to_array()
    assert mask.any()
    assert np.count_nonzero(mask != expected[0]) <= 1
