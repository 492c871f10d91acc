"""The demo model in torch, for training: Meta's prompt encoder and mask decoder, our convolutional image encoder.

The modules carry the names of `model.modeling.conv_encoder` and of Meta's state dict; `demo_training.export` folds the
batch norms and writes the file that Paddle reads. Only training needs torch and segment-anything.
"""

import math
import sys
import types

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import PIXEL_MEAN, PIXEL_STD, ConvConfig, SamConfig

if "torchvision" not in sys.modules:  # segment_anything imports it for its automatic masks, which are not used here
    for _name in ("", ".ops", ".ops.boxes", ".transforms", ".transforms.functional"):
        sys.modules[f"torchvision{_name}"] = types.ModuleType(f"torchvision{_name}")
    for _name, _wanted in (("ops.boxes", "batched_nms box_area"), ("transforms.functional", "resize to_pil_image")):
        vars(sys.modules[f"torchvision.{_name}"]).update(dict.fromkeys(_wanted.split()))

from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d

for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
    if not hasattr(sys.modules[_name], "__file__"):  # later imports of torchvision must not find a stand-in
        del sys.modules[_name]

SLOWEST, FASTEST = 0.2, 4.0  # position frequencies: slow ones tell inside a box from outside, fast ones place a click
MATCHING_GAIN = 2.5


class ConvNorm(nn.Module):
    """A convolution and a batch norm, one convolution once exported."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, momentum=0.05)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, H / stride, W / stride)."""
        return self.norm(self.conv(x))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, width, 3)
        self.conv2 = ConvNorm(width, width, 3)
        nn.init.constant_(self.conv2.norm.weight, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape it got."""
        return functional.relu(x + self.conv2(functional.relu(self.conv1(x))))


class Attention(nn.Module):
    """Global self-attention over tokens (B, L, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, C)."""
        b, length, c = x.shape
        q, k, v = self.qkv(x).reshape(b, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, c))


class Mlp(nn.Module):
    """The feed-forward half of a transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, C)."""
        return self.lin2(functional.gelu(self.lin1(x)))


class AttnBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConvEncoder(nn.Module):
    """The torch twin of `model.modeling.conv_encoder.ConvEncoder`."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        encoder = config.image_encoder
        assert isinstance(encoder, ConvConfig)
        w4, w8, w16 = encoder.widths
        d4, d8, d16 = encoder.depths
        side = config.image_size // 16
        self.stem = nn.Sequential(ConvNorm(3, w4 // 2, 3, 2), nn.ReLU(), ConvNorm(w4 // 2, w4, 3, 2), nn.ReLU())
        self.stage4 = nn.Sequential(*[ConvBlock(w4) for _ in range(d4)])
        self.down8 = ConvNorm(w4, w8, 3, 2)
        self.stage8 = nn.Sequential(*[ConvBlock(w8) for _ in range(d8)])
        self.down16 = ConvNorm(w8, w16, 3, 2)
        self.stage16 = nn.Sequential(*[ConvBlock(w16) for _ in range(d16)])
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, side, side, w16))
        self.blocks = nn.Sequential(*[AttnBlock(w16, encoder.attn_heads) for _ in range(encoder.attn_depth)])
        self.lateral = ConvNorm(w16, w8, 1)
        self.fuse = nn.Sequential(*[ConvBlock(w8) for _ in range(encoder.fuse_depth)])
        self.neck = nn.Sequential(
            nn.Conv2d(w8, config.prompt_embed_dim, 1, bias=False),
            LayerNorm2d(config.prompt_embed_dim),
            nn.Conv2d(config.prompt_embed_dim, config.prompt_embed_dim, 3, padding=1, bias=False),
            LayerNorm2d(config.prompt_embed_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding (B, C, S/8, S/8) of normalised images (B, 3, S, S)."""
        x = self.stage4(self.stem(x))  # (B, w4, S/4, S/4)
        fine = self.stage8(functional.relu(self.down8(x)))  # (B, w8, S/8, S/8)
        coarse = self.stage16(functional.relu(self.down16(fine)))  # (B, w16, S/16, S/16)
        b, c, h, w = coarse.shape
        tokens = coarse.permute(0, 2, 3, 1) + self.pos_embed  # (B, h, w, w16)
        tokens = self.blocks(tokens.reshape(b, h * w, c))  # (B, h*w, w16)
        coarse = self.lateral(tokens.transpose(1, 2).reshape(b, c, h, w))  # (B, w8, S/16, S/16)
        x = functional.relu(
            fine + functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        )  # (B, w8, S/8, S/8)
        return self.neck(self.fuse(x))  # (B, C, S/8, S/8)


class DemoSam(nn.Module):
    """Image encoder, prompt encoder and mask decoder, with the parts that only training uses in ``aux``."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        dim, grid = config.prompt_embed_dim, config.embedding_size
        self.image_encoder = ConvEncoder(config)
        self.prompt_encoder = PromptEncoder(
            dim, (grid, grid), (config.image_size, config.image_size), config.mask_in_chans
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=dim,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=dim,
                mlp_dim=config.decoder_mlp_dim,
                num_heads=config.decoder_num_heads,
            ),
            num_multimask_outputs=config.num_multimask_outputs,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_hidden_dim,
        )
        self.aux = nn.ModuleDict(
            {"query": nn.Linear(dim, 64), "key": nn.Linear(dim, 4 * 64), "edge": nn.Conv2d(dim, 16, 1)}
        )
        self._start_from_positions()

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch's own types are not read
    def _start_from_positions(self) -> None:
        """Let attention between prompts and image begin as a comparison of positions, which else takes long to learn.

        Query and key projections start equal, so that a prompt attends to where it points; the random frequencies of
        the position encoding spread evenly from slow to fast.
        """
        frequencies = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix  # (2, C/2)
        length = torch.logspace(math.log10(SLOWEST), math.log10(FASTEST), frequencies.shape[1])
        frequencies.mul_(length / frequencies.norm(dim=0))
        transformer = self.mask_decoder.transformer
        between = [transformer.final_attn_token_to_image]
        for layer in transformer.layers:
            between += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for attention in between:
            attention.q_proj.weight.mul_(MATCHING_GAIN)
            attention.k_proj.weight.copy_(attention.q_proj.weight)

    def decode(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 4, s, s) and IoU predictions (N, 4) for N prompts, each with its own embedding.

        What Meta's decoder computes, with the upscaling written as matrix products on channels-last data: it is a
        third faster to train. The numbers are the same.
        """
        decoder = self.mask_decoder
        n, c, h, w = embedding.shape
        fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).to(embedding.dtype)
        tokens = torch.cat([fixed.expand(n, -1, -1), sparse], dim=1)  # (N, 5 + prompts, C)
        position = self.prompt_encoder.get_dense_pe().to(embedding.dtype).expand(n, -1, -1, -1)
        out, src = decoder.transformer(embedding + dense, position, tokens)  # (N, 5 + prompts, C), (N, h*w, C)
        first, norm, _, second, _ = decoder.output_upscaling
        up = _transposed(first, src).reshape(n, h * w, 4, c // 4)
        up = functional.gelu(functional.layer_norm(up, (c // 4,), norm.weight, norm.bias, norm.eps))
        up = functional.gelu(_transposed(second, up)).reshape(
            n, h * w * 16, c // 8
        )  # each token's 2x2 cells of 2x2 cells
        hyper = torch.stack(
            [mlp(out[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )  # (N, 4, C/8)
        logits = (hyper @ up.transpose(1, 2)).reshape(n, -1, h, w, 2, 2, 2, 2)
        logits = logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(n, -1, 4 * h, 4 * w)
        return logits, decoder.iou_prediction_head(out[:, 0])


def _transposed(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Return a 2x2 transposed convolution of stride 2 of tokens (..., C_in), as (..., 4 * C_out)."""
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * C_out, C_in)
    assert conv.bias is not None
    return functional.linear(x, weight, conv.bias.repeat(4))


def _layer_norm_2d(self: LayerNorm2d, x: Tensor) -> Tensor:
    return functional.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], self.weight, self.bias, self.eps).permute(
        0, 3, 1, 2
    )


LayerNorm2d.forward = _layer_norm_2d  # the same numbers as Meta's five operations, in one


def normalise(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Return float images (B, 3, S, S) from uint8 (B, S, S, 3): normalised, zero outside each (height, width)."""
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    x = ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    for k, (height, width) in enumerate(sizes):
        x[k, :, height:] = 0
        x[k, :, :, width:] = 0
    return x
