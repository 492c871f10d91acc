"""The demo model's weights in Meta's ``Sam``, its image encoder the torch twin that it was trained as; needs torch."""

from typing import Any

import numpy as np

from model.config import SamConfig
from tests.reference.meta import assemble
from tests.support.checkpoints import to_torch_layout


def build_demo(config: SamConfig, tensors: dict[str, np.ndarray]) -> Any:
    """Meta's ``Sam`` with these weights, in Paddle's layout."""
    import torch

    from demo_training.export import paddle_state
    from demo_training.network import ConvNorm, DemoSam

    twin = DemoSam(config).eval()
    known = paddle_state(twin)
    for name, module in twin.named_modules():
        if isinstance(module, ConvNorm):  # the norm is part of the convolution; what is left of it changes nothing
            torch.nn.init.constant_(module.norm.weight, float(np.sqrt(1 + module.norm.eps)))
            module.conv.weight.data = torch.from_numpy(tensors[f"{name}.weight"].astype(np.float32))
            module.norm.bias.data = torch.from_numpy(tensors[f"{name}.bias"].astype(np.float32))
            del known[f"{name}.weight"], known[f"{name}.bias"]
    state = to_torch_layout({name: tensors[name].astype(np.float32) for name in known})
    foreign = twin.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=False)
    assert not foreign.unexpected_keys
    twin.image_encoder.img_size = config.image_size  # what Meta's code asks its own encoder for
    return assemble(twin.image_encoder, twin.prompt_encoder, twin.mask_decoder)
