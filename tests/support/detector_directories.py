"""Small detectors in PaddleX's layout: untrained programs with the inputs and outputs of the published ones.

Run in the interpreter that has Paddle; PaddleX runs the same directories.
"""

import io
import json
import string
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import nn
from paddle.static import InputSpec
from PIL import Image

BERT_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ",", "!", "[", "]", "-", "'",
              *string.ascii_lowercase, *string.digits,
              *(f"##{letter}" for letter in (*string.ascii_lowercase, *string.digits)),
              "bus", "walking", "man", "cat", "dog", "red", "##s", "猫", "狗")  # fmt: skip
CLIP_MERGES = ("c a", "ca t</w>", "d o", "do g</w>", "b u", "bu s</w>", "m a", "ma n</w>")
WIDTH = 16


class GroundingDino(nn.Layer):
    """900 queries on a grid of 30 × 30 places, compared with every token of the text."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2D(3, WIDTH, 8, stride=8)
        self.words = nn.Embedding(len(BERT_WORDS), WIDTH)
        self.positions = nn.Embedding(256, WIDTH)
        self.boxes = nn.Linear(WIDTH, 4)

    def forward(self, x, m, input_ids, attention_mask, text_self_attention_masks, position_ids):
        visible = 1.0 - nn.functional.interpolate(m.astype("float32").unsqueeze(1), size=[30, 30])
        features = nn.functional.adaptive_avg_pool2d(self.patches(x), [30, 30]) * visible
        features = features.flatten(2).transpose([0, 2, 1])
        text = self.text_features(input_ids, attention_mask, text_self_attention_masks, position_ids)
        logits = 1.5 * features @ text.transpose([0, 2, 1]) - 1.0
        missing = paddle.full([1, 900, 256], -1e4)
        logits = paddle.concat([logits, missing], axis=-1)[:, :, :256]
        return nn.functional.sigmoid(self.boxes(features)), logits

    def text_features(self, input_ids, attention_mask, text_self_attention_masks, position_ids):
        text = self.words(input_ids) + self.positions(position_ids)
        allowed = text_self_attention_masks.astype("float32")
        weights = nn.functional.softmax(text @ text.transpose([0, 2, 1]) - 100.0 * (1.0 - allowed), axis=-1)
        return (weights @ text) * attention_mask.astype("float32").unsqueeze(-1)


class EntangledGroundingDino(GroundingDino):
    """One whose text side gives many values to the rest, of all types and shapes, and has a branch."""

    def __init__(self):
        super().__init__()
        self.projections = nn.LayerList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])

    def forward(self, x, m, input_ids, attention_mask, text_self_attention_masks, position_ids):
        if input_ids.shape[1] > 40:  # noqa: SIM108 - becomes a branch of the program
            factor = 1.0 + self.words(input_ids).mean()
        else:
            factor = paddle.full([], 1.0)
        text = (self.words(input_ids) + self.positions(position_ids)) * factor
        visible = 1.0 - nn.functional.interpolate(m.astype("float32").unsqueeze(1), size=[30, 30])
        features = nn.functional.adaptive_avg_pool2d(self.patches(x), [30, 30]) * visible
        features = features.flatten(2).transpose([0, 2, 1])
        features = features + 0.01 * (text + paddle.full([], 1.0)).mean()
        halves = paddle.split(text, 2, axis=-1)
        features = features + halves[0].mean() + paddle.concat([halves[1], halves[0]], axis=-1).mean([0, 1])
        is_known = (attention_mask > 0).logical_and(text_self_attention_masks.any(-1))
        features = features + 0.1 * (features > 0).logical_and(is_known.all()).astype("float32")
        features = features + position_ids.astype("float32").mean()
        for projection in self.projections:
            likeness = nn.functional.softmax(features @ projection(text).transpose([0, 2, 1]), axis=-1)
            features = features + 0.05 * likeness @ text
        features = features + text.mean(1, keepdim=True).expand([1, 900, WIDTH])
        tokens = paddle.shape(input_ids)[1]
        logits = (1.5 * features @ text.transpose([0, 2, 1]) - 1.0).reshape([1, 900, tokens]) + paddle.zeros([tokens])
        logits = logits * attention_mask.astype("float32").unsqueeze(1)
        logits = paddle.concat([logits, paddle.full([1, 900, 256], -1e4)], axis=-1)[:, :, :256]
        return nn.functional.sigmoid(self.boxes(features)), logits


class YoloWorld(nn.Layer):
    """One box for each of 8 × 8 places, with the class of the best text; back in the picture's pixels."""

    def __init__(self, vocabulary):
        super().__init__()
        self.patches = nn.Conv2D(3, WIDTH, 80, stride=80)
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.boxes = nn.Linear(WIDTH, 4)

    def forward(self, image, input_ids, attention_mask, pad_param, scale_factor):
        features = self.patches(image).flatten(2).transpose([0, 2, 1])[0]
        mask = attention_mask.astype("float32").unsqueeze(-1)
        text = (self.words(input_ids) * mask).sum(1)
        scores = nn.functional.sigmoid(4.0 * features @ text.transpose([1, 0]))
        corners = nn.functional.sigmoid(self.boxes(features)) * 640.0
        low = paddle.minimum(corners[:, :2], corners[:, 2:]) - pad_param[0]
        high = paddle.maximum(corners[:, :2], corners[:, 2:]) - pad_param[0]
        boxes = paddle.concat([low / scale_factor[0], high / scale_factor[0]], axis=-1)
        best = scores.argmax(-1).astype("float32").unsqueeze(-1)
        rows = paddle.concat([best, scores.max(-1, keepdim=True), boxes], axis=-1)
        return rows, paddle.full([1], 64, "int32")


class Closed(nn.Layer):
    """One box for each of 8 × 8 places and its class among a fixed number."""

    def __init__(self, classes, takes_size):
        super().__init__()
        self.patches = nn.Conv2D(3, WIDTH, 40, stride=40)
        self.classes = nn.Linear(WIDTH, classes)
        self.boxes = nn.Linear(WIDTH, 4)
        self.takes_size = takes_size
        if not takes_size:
            self.forward = self.without_size

    def forward(self, image, im_shape, scale_factor):
        return self.detect(image, im_shape[0], scale_factor)

    def without_size(self, image, scale_factor):
        return self.detect(image, paddle.full([2], 320.0), scale_factor)

    def detect(self, image, size, scale_factor):
        features = self.patches(image).flatten(2).transpose([0, 2, 1])[0]
        scores = nn.functional.sigmoid(3.0 * self.classes(features))
        corners = nn.functional.sigmoid(self.boxes(features))
        low, high = paddle.minimum(corners[:, :2], corners[:, 2:]), paddle.maximum(corners[:, :2], corners[:, 2:])
        sides = size.flip([0]) / scale_factor[0].flip([0])
        boxes = paddle.concat([low * sides, high * sides], axis=-1)
        best = scores.argmax(-1).astype("float32").unsqueeze(-1)
        rows = paddle.concat([best, scores.max(-1, keepdim=True), boxes], axis=-1)
        return rows, paddle.full([1], 64, "int32")


class ColourFinder(nn.Layer):
    """The box around all that is red, all that is green, and all that is blue; the score is 0.75 where there is any."""

    def __init__(self):
        super().__init__()
        self.score = self.create_parameter([], default_initializer=nn.initializer.Constant(0.75))

    def forward(self, image, scale_factor):
        boxes_of_channels = []
        for channel in range(3):
            stronger = paddle.maximum(image[:, (channel + 1) % 3], image[:, (channel + 2) % 3])
            mask = (image[:, channel] - stronger > 0.4).astype("float32")[0]  # (H, W)
            columns, rows = mask.max(0), mask.max(1)
            x, y = paddle.arange(320, dtype="float32"), paddle.arange(320, dtype="float32")
            sides = [
                (x + 1e4 * (1 - columns)).min() / scale_factor[0, 1],
                (y + 1e4 * (1 - rows)).min() / scale_factor[0, 0],
                ((x + 1) * columns).max() / scale_factor[0, 1],
                ((y + 1) * rows).max() / scale_factor[0, 0],
            ]
            boxes_of_channels.append(paddle.stack([paddle.full([], float(channel)), mask.max() * self.score, *sides]))
        return paddle.stack(boxes_of_channels), paddle.full([1], 3, "int32")


def write_colour_finder(directory: Path, classes: list[str]) -> Path:
    """Write a detector that finds things by their colour, red, green and blue, under these names."""
    spec = [InputSpec([1, 3, 320, 320], "float32", "image"), InputSpec([1, 2], "float32", "scale_factor")]
    _save(ColourFinder(), spec, directory)
    steps = [
        {"type": "Resize", "interp": 1, "keep_ratio": False, "target_size": [320, 320]},
        {"type": "NormalizeImage", "is_scale": True, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        {"type": "Permute"},
    ]
    _describe(directory, "PicoDet-S", steps, draw_threshold=0.5, label_list=classes)
    return directory


def coloured_discs(seed: int, height: int = 300, width: int = 400) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A picture with one or two of a red, a green and a blue disc, and where each is, (H, W) bool."""
    chosen = np.random.default_rng(seed)
    image = np.full((height, width, 3), 150, np.uint8) + chosen.integers(0, 12, (height, width, 1), np.uint8)
    y, x = np.mgrid[:height, :width]
    masks = {}
    for index, channel in enumerate(chosen.permutation(3)[: 1 + seed % 2]):
        radius, middle = chosen.integers(35, 70), (1 + 2 * index) * width / 4 + chosen.integers(-15, 15)
        disc = (x - middle) ** 2 + (y - height / 2 - chosen.integers(-40, 40)) ** 2 < radius**2
        colour = np.full(3, 40, np.uint8)
        colour[channel] = 220
        image[disc] = colour
        masks[("red", "green", "blue")[channel]] = disc
    return image, masks


def write_grounding_dino(directory: Path, seed: int = 0, network: type[nn.Layer] = GroundingDino) -> Path:
    """Write a directory of the kind of ``GroundingDINO-T``."""
    paddle.seed(seed)
    spec = [
        InputSpec([None, 3, None, None], "float32", "x"),
        InputSpec([None, None, None], "bool", "m"),
        InputSpec([None, None], "int64", "input_ids"),
        InputSpec([None, None], "int64", "attention_mask"),
        InputSpec([None, None, None], "bool", "text_self_attention_masks"),
        InputSpec([None, None], "int64", "position_ids"),
    ]
    _save(network(), spec, directory)
    write_bert_tokenizer(directory / "tokenizer")
    _describe(
        directory,
        "GroundingDINO-T",
        [{"type": "GroundingDINOProcessor", "text_max_words": 256, "target_size": [800, 1333]}],
        box_threshold=0.3,
        text_threshold=0.25,
    )
    return directory


def write_yolo_world(directory: Path, seed: int = 0) -> Path:
    """Write a directory of the kind of ``YOLO-Worldv2-L``."""
    paddle.seed(seed)
    vocabulary = write_clip_tokenizer(directory / "tokenizer")
    spec = [
        InputSpec([None, 3, 640, 640], "float32", "image"),
        InputSpec([None, None], "int64", "input_ids"),
        InputSpec([None, None], "int64", "attention_mask"),
        InputSpec([None, 2], "float32", "pad_param"),
        InputSpec([None, 2], "float32", "scale_factor"),
    ]
    _save(YoloWorld(vocabulary), spec, directory)
    steps = [{"type": "YOLOWorldProcessor", "image_target_size": [640, 640]}]
    _describe(directory, "YOLO-Worldv2-L", steps, threshold=0.05)
    return directory


def write_closed(directory: Path, name: str, classes: list[str], seed: int = 0) -> Path:
    """Write a directory of a detector with a fixed list of classes, such as ``PicoDet-S`` or ``RT-DETR-L``."""
    paddle.seed(seed)
    takes_size = "DETR" in name
    spec = [InputSpec([None, 3, 320, 320], "float32", "image"), InputSpec([None, 2], "float32", "scale_factor")]
    if takes_size:
        spec.insert(1, InputSpec([None, 2], "float32", "im_shape"))
    _save(Closed(len(classes), takes_size), spec, directory)
    steps = [
        {"type": "Resize", "interp": 2, "keep_ratio": False, "target_size": [320, 320]},
        {"type": "NormalizeImage", "is_scale": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"type": "Permute"},
    ]
    _describe(directory, name, steps, draw_threshold=0.5, label_list=classes)
    return directory


def write_bert_tokenizer(directory: Path) -> None:
    """Write a small vocabulary of BERT's kind."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def write_clip_tokenizer(directory: Path) -> int:
    """Write a small vocabulary of CLIP's kind; return its size."""
    directory.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in CLIP_MERGES),
              "<|startoftext|>", "<|endoftext|>"]  # fmt: skip
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *CLIP_MERGES]) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def byte_symbols() -> list[str]:
    """The characters that stand for the 256 bytes in the vocabularies of GPT-2 and CLIP."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def picture(height: int = 90, width: int = 160, seed: int = 0) -> np.ndarray:
    """A picture of random blocks, (H, W, 3) uint8 RGB."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(10, 0).repeat(10, 1)[:height, :width])


def png(pixels: np.ndarray) -> bytes:
    """A picture as a file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _save(network, spec, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    network.eval()
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), str(directory / "inference"))


def _describe(directory: Path, name: str, steps: list[dict], **more) -> None:
    content = {"mode": "paddle", "Global": {"model_name": name}, "Preprocess": steps, **more}
    (directory / "inference.yml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
