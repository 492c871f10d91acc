"""The demo's detector in torch, for training: the demo model's image encoder, and heads for boxes and words.

Every cell at stride 8 speaks for the object that it shows: how sure it is (the IoU that its box is likely to have),
the box, and a feature that is compared with each word's embedding, as in YOLO-World. `demo_training.detector.export`
has the same in Paddle.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_training.detector.words import WORDS
from demo_training.network import ConvBlock, ConvNorm, DemoSam
from model.config import PIXEL_MEAN, PIXEL_STD, demo

SIDE, STRIDE = 256, 8
GRID = SIDE // STRIDE
WIDTH, FEATURE = 96, 64
FILLER = 144
"""What stands around a picture of another shape, as in YOLO-World."""


class DetectorNetwork(nn.Module):
    """Boxes and words of pictures."""

    def __init__(self, sam: DemoSam | None = None) -> None:
        """Take the image encoder of a trained demo model, or an untrained one."""
        super().__init__()
        self.image_encoder = (DemoSam(demo()) if sam is None else sam).image_encoder
        self.enter = ConvNorm(demo().prompt_embed_dim + 3, WIDTH, 1)
        self.box_block, self.word_block = ConvBlock(WIDTH), ConvBlock(WIDTH)
        self.box = nn.Conv2d(WIDTH, 5, 1)
        self.feature = nn.Conv2d(WIDTH, FEATURE, 1)
        self.words = nn.Parameter(torch.randn(len(WORDS), FEATURE) / FEATURE**0.5)
        self.word_bias = nn.Parameter(torch.full((len(WORDS),), -2.5))
        assert self.box.bias is not None
        nn.init.constant_(self.box.bias, 1.5)
        with torch.no_grad():
            self.box.bias[0] = -3.0

    @property
    def frozen(self) -> list[nn.Module]:
        """The fine layers of the image encoder, which stay as they are: half of what a step would cost."""
        encoder = self.image_encoder
        return [encoder.stem, encoder.stage4, encoder.down8, encoder.stage8]

    def train(self, mode: bool = True) -> "DetectorNetwork":
        """Switch to training, but for the layers that stay as they are."""
        super().train(mode)
        for part in self.frozen:
            part.eval().requires_grad_(False)
        return self

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sureness (B, L) as logits, boxes (B, L, 4) as XYXY in pixels, and logits of words (B, L, V).

        Args:
            pixels: RGB (B, 3, S, S), 0 to 255.
        """
        mean, std = (torch.tensor(v, dtype=pixels.dtype).reshape(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
        x = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        x = torch.cat([self.image_encoder(x), functional.avg_pool2d(x, STRIDE)], dim=1)  # (B, C + 3, S/8, S/8)
        x = functional.relu(self.enter(x))
        found = self.box(self.box_block(x)).flatten(2).transpose(1, 2).float()  # (B, L, 5)
        feature = self.feature(self.word_block(x)).flatten(2).transpose(1, 2).float()  # (B, L, F)
        reach = STRIDE * torch.exp(found[..., 1:].clamp(-4, 4))
        centres = cell_centres()
        boxes = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
        return found[..., 0], boxes, feature @ self.words.T + self.word_bias


def cell_centres() -> Tensor:
    """Return (x, y) of the middle of each cell in pixels, (L, 2)."""
    along = (torch.arange(GRID) + 0.5) * STRIDE
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)
