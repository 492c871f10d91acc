"""Begin training where shipped weights end: `export` backwards, with the batch norms found again from pictures.

Exported weights hold every convolution with its batch norm folded in, neither the optimiser's state nor the parts that
only training uses. What is found again computes the same; the rest starts as in a new training.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from demo_training.network import ConvNorm, DemoSam


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch's own types are not read
def load_exported(model: DemoSam, path: Path, pictures: Iterable[Tensor]) -> None:
    """Load a file of `export` into ``model``, and split its convolutions into convolution and batch norm again.

    Args:
        model: of the file's configuration; its ``aux`` part is left as it is.
        path: what `export` wrote.
        pictures: normalised batches (B, 3, S, S) that tell what the batch norms would have seen.

    Raises:
        KeyError: the file has not all the weights of this network.
        RuntimeError: one of them has another shape.
    """
    stored = {name: value.float() for name, value in load_file(path).items()}
    for name, module in model.named_modules():
        if name.startswith("aux"):
            continue
        if isinstance(module, ConvNorm):
            module.conv.weight.copy_(stored[f"{name}.weight"])
            module.norm.bias.copy_(stored[f"{name}.bias"])
            nn.init.ones_(module.norm.weight)
            _set_statistics(module, torch.zeros(()), torch.ones(()) - module.norm.eps)
        elif not name.endswith((".conv", ".norm")):  # those two are inside a ConvNorm
            own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            for key, value in own.items():
                tensor = stored[f"{name}.{key}"]
                value.copy_(tensor.T if isinstance(module, nn.Linear) and key == "weight" else tensor)
    _find_norms(model, pictures)


def _set_statistics(module: ConvNorm, mean: Tensor, variance: Tensor) -> None:
    assert module.norm.running_mean is not None
    assert module.norm.running_var is not None
    module.norm.running_mean.copy_(mean)
    module.norm.running_var.copy_(variance)


def _find_norms(model: DemoSam, pictures: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of what it gets, so that it takes out what it puts in."""
    norms = [module for module in model.modules() if isinstance(module, ConvNorm)]
    seen: dict[ConvNorm, list[Tensor]] = {module: [] for module in norms}

    def note(module: ConvNorm, inputs: tuple[Tensor], _: Tensor) -> None:
        y = module.conv(inputs[0])  # (B, C, h, w)
        seen[module].append(torch.stack([y.mean((0, 2, 3)), (y**2).mean((0, 2, 3))]))

    hooks = [module.register_forward_hook(note) for module in norms]
    training = model.training
    model.eval()
    for batch in pictures:
        model.image_encoder(batch)
    model.train(training)
    for hook in hooks:
        hook.remove()
    for module in norms:
        mean, square = torch.stack(seen[module]).mean(0)
        variance = (square - mean**2).clamp(min=0)
        _set_statistics(module, mean, variance)
        module.norm.weight.copy_((variance + module.norm.eps).sqrt())
        module.norm.bias.add_(mean)
