"""Write a training checkpoint as the file that ships: ``python -m demo_training.export --checkpoint last.pt``.

Batch norms are folded into their convolutions, linear weights transposed to Paddle's (in, out), everything stored as
float16 under the names of Meta's state dict. The file's metadata holds ``format`` and the configuration as JSON.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

import model.demo
from demo_training.network import ConvNorm, DemoSam
from model.config import SamConfig, demo


def _folded(module: ConvNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that does what a convolution and its batch norm do."""
    norm = module.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return module.conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch's own types are not read
def paddle_state(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the weights as the Paddle network names and lays them out, float32, without the training-only parts."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if name.startswith("aux"):
            continue
        if isinstance(module, ConvNorm):
            state[f"{name}.weight"], state[f"{name}.bias"] = _folded(module)
        elif not name.endswith((".conv", ".norm")):  # those two are inside a ConvNorm
            own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            linear = isinstance(module, nn.Linear)
            state |= {f"{name}.{k}".removeprefix("."): v.T if linear and k == "weight" else v for k, v in own.items()}
    return {name: value.float().contiguous().numpy().copy() for name, value in state.items()}


def load_averaged(checkpoint: Path, config: SamConfig) -> DemoSam:
    """Return the torch model with a checkpoint's averaged weights, for inference."""
    model = DemoSam(config)
    model.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["average"])
    model.eval()
    return model


def export(checkpoint: Path, out: Path) -> None:
    """Write ``out`` (safetensors, float16) from the averaged weights of a checkpoint."""
    config = demo()
    state = paddle_state(load_averaged(checkpoint, config))
    half = {name: np.ascontiguousarray(value.astype(np.float16)) for name, value in state.items()}
    save_file(half, out, metadata={"format": "paddle-sam", "config": config.to_json()})


def main() -> None:
    """Export the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(model.demo.__file__).parent / "demo.safetensors")
    options = parser.parse_args()
    export(options.checkpoint, options.out)
    print(f"wrote={options.out} bytes={options.out.stat().st_size}")


if __name__ == "__main__":
    main()
