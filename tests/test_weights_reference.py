"""The readers against files that the reference implementations write themselves."""

import numpy as np
import pytest

from model import weights
from tests import checkpoints

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
