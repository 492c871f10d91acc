"""The three of torchvision's transforms that SAM 2 names, written from their documentation; needs torch.

TorchScript reads this file, so it is a module of its own with torch at its top.
"""

from typing import List, Tuple  # noqa: UP035  # what TorchScript knows

import numpy as np
import torch
from torch.nn import functional


class ToTensor:
    """(H, W, 3) uint8 to (3, H, W) float32 from 0 to 1."""

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous().float() / 255


class Resize(torch.nn.Module):
    """Bilinear with antialiasing, as torchvision resizes tensors by default."""

    def __init__(self, size: Tuple[int, int]) -> None:  # noqa: UP006
        super().__init__()
        self.size = list(size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        size: List[int] = self.size  # noqa: UP006
        return functional.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


class Normalize(torch.nn.Module):
    """Subtract a mean and divide by a deviation, per channel."""

    def __init__(self, mean: List[float], std: List[float]) -> None:  # noqa: UP006
        super().__init__()
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std
