"""Write a training checkpoint as PaddleX's inference directory of a detector of YOLO-World's kind.

``python -m demo_training.detector.export --checkpoint last.pt``. Numbers are stored as float16 and computed in float32.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import torch
import yaml
from numpy.typing import NDArray
from paddle import Tensor, _C_ops, nn
from paddle.nn import functional
from paddle.static import InputSpec

from demo_training.detector import tokens
from demo_training.detector.network import FEATURE, GRID, SIDE, STRIDE, WIDTH, DetectorNetwork, cell_centres
from demo_training.detector.words import WORDS
from demo_training.export import paddle_state
from model.config import PIXEL_MEAN, PIXEL_STD, demo
from model.demo import DETECTOR, DETECTOR_FOLDER
from model.modeling.conv_encoder import ConvBlock, ConvEncoder

LEAST_SCORE, THRESHOLD = 0.05, 0.5
NMS_IOU, MOST_OF_A_WORD, MOST = 0.6, 100, 300


class ExportedDetector(nn.Layer):
    """`DetectorNetwork` with the inputs and outputs of PaddleX's YOLO-World."""

    def __init__(self, meanings: NDArray[np.int64]) -> None:
        """Take what each token means, see `demo_training.detector.tokens`."""
        super().__init__()
        self.image_encoder = ConvEncoder(demo())
        self.enter = nn.Conv2D(demo().prompt_embed_dim + 3, WIDTH, 1)
        self.box_block, self.word_block = ConvBlock(WIDTH), ConvBlock(WIDTH)
        self.box, self.feature = nn.Conv2D(WIDTH, 5, 1), nn.Conv2D(WIDTH, FEATURE, 1)
        self.words = self.create_parameter([len(WORDS), FEATURE])
        self.word_bias = self.create_parameter([len(WORDS)])
        constants = {"meanings": meanings, "centres": cell_centres().numpy()}
        for name, value in (("mean", PIXEL_MEAN), ("std", PIXEL_STD)):
            constants[name] = np.array(value, np.float32).reshape(1, 3, 1, 1)
        for name, value in constants.items():
            self.register_buffer(name, paddle.to_tensor(value))

    def forward(
        self, image: Tensor, input_ids: Tensor, attention_mask: Tensor, pad_param: Tensor, scale_factor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (N, 6), each with the number of its text, score, x1, y1, x2, y2, and how many there are."""
        pixels = (image * 255.0 - self.mean) / self.std
        x = paddle.concat([self.image_encoder(pixels), functional.avg_pool2d(pixels, STRIDE)], axis=1)
        x = functional.relu(self.enter(x))
        found = self.box(self.box_block(x)).reshape([5, GRID * GRID]).transpose([1, 0])  # (L, 5)
        feature = self.feature(self.word_block(x)).reshape([FEATURE, GRID * GRID])
        reach = STRIDE * paddle.exp(found[:, 1:].clip(-4, 4))
        padding = pad_param[0]
        low, high = self.centres - reach[:, :2] - padding, self.centres + reach[:, 2:] - padding
        boxes = paddle.concat([low / scale_factor[0], high / scale_factor[0]], axis=-1)
        scores = self.likelihood(feature, input_ids, attention_mask) * functional.sigmoid(found[:, 0]).unsqueeze(0)
        detections, _, count = _C_ops.multiclass_nms3(
            boxes.unsqueeze(0), scores.unsqueeze(0), None, LEAST_SCORE, MOST_OF_A_WORD, MOST, NMS_IOU, False, 1.0, -1
        )
        return detections, count

    def likelihood(self, feature: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return for each text how likely all its words are true of what each cell shows, (N, L)."""
        words = functional.log_sigmoid(paddle.matmul(self.words, feature) + self.word_bias.unsqueeze(-1))  # (V, L)
        zero = paddle.zeros([1, GRID * GRID])
        logs = paddle.concat([words, zero, zero - 100.0], axis=0)  # any word is true, an unknown one is not
        meant = paddle.gather(self.meanings, input_ids.reshape([-1])).reshape(paddle.shape(input_ids))
        chosen = functional.one_hot(meant, tokens.SILENT + 1) * attention_mask.astype("float32").unsqueeze(-1)
        chosen = chosen.max(1)[:, : tokens.SILENT]  # (N, V + 2)
        empty = (chosen.sum(1, keepdim=True) == 0).astype("float32")
        return paddle.exp(paddle.matmul(chosen, logs) - 100.0 * empty)


def halve(network: nn.Layer) -> None:
    """Keep a network's numbers as float16, which are made float32 whenever it runs."""
    for layer in network.sublayers(include_self=True):
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                del layer._parameters[name]
                half = f"half_{name}"
                layer.add_parameter(
                    half, layer.create_parameter(parameter.shape, dtype="float16", default_initializer=_copy(parameter))
                )
                layer.register_forward_pre_hook(_widening(name, half))


def _copy(parameter: Tensor) -> nn.initializer.Initializer:
    return nn.initializer.Assign(parameter.numpy().astype(np.float16))


def _widening(name: str, half: str) -> Callable[[nn.Layer, object], None]:
    def widen(layer: nn.Layer, inputs: object) -> None:
        object.__setattr__(layer, name, getattr(layer, half).astype("float32"))

    return widen


def export(checkpoint: Path, out: Path, weights: str = "average") -> None:
    """Write the inference directory of a checkpoint's averaged weights."""
    trained = DetectorNetwork()
    trained.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")[weights])
    trained.eval()
    network = ExportedDetector(tokens.write(out / "tokenizer"))
    state = paddle_state(trained)
    missing, unexpected = network.set_state_dict({**network.state_dict(), **state})
    assert not missing
    assert not unexpected, unexpected
    network.eval()
    halve(network)
    spec = [
        InputSpec([1, 3, SIDE, SIDE], "float32", "image"),
        InputSpec([None, None], "int64", "input_ids"),
        InputSpec([None, None], "int64", "attention_mask"),
        InputSpec([1, 2], "float32", "pad_param"),
        InputSpec([1, 2], "float32", "scale_factor"),
    ]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), str(out / "inference"))
    description = {
        "Global": {"model_name": DETECTOR},
        "Preprocess": [{"type": "YOLOWorldProcessor", "image_target_size": [SIDE, SIDE]}],
        "threshold": THRESHOLD,
    }
    (out / "inference.yml").write_text(yaml.safe_dump(description))


def main() -> None:
    """Export the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=DETECTOR_FOLDER)
    parser.add_argument("--weights", choices=("average", "model"), default="average")
    options = parser.parse_args()
    export(options.checkpoint, options.out, options.weights)
    total = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"wrote={options.out} bytes={total}")


if __name__ == "__main__":
    main()
