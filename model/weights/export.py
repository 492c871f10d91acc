"""Weights written in a format that others read: a directory that PaddleX runs, or our own safetensors."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from model.config import ConvConfig, VitConfig
from model.weights import decoder_weights, parameters, sam2_names
from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.formats import meta_pth, native, paddlex, paddlex_yaml
from model.weights.tensors import FloatArray

if TYPE_CHECKING:
    from paddle import nn

ExportFormat = Literal["paddlex", "native", "meta"]
PromptKind = Literal["box", "point"]

MODEL_NAMES: dict[PromptKind, str] = {"box": "SAM-H_box", "point": "SAM-H_point"}
"""The names that PaddleX knows; it looks at nothing else to choose how prompts are taken."""
NATIVE_FILE = "model.safetensors"
META_FILE = "model.pth"


def export(
    checkpoint: Checkpoint, directory: str | Path, file_format: ExportFormat = "paddlex", prompt: PromptKind = "box"
) -> Path:
    """Write the weights into ``directory``, whole or not at all, and return the directory.

    Args:
        checkpoint: what `model.weights.read` returned.
        directory: made if it is not there; files of the same names in it are replaced.
        file_format: ``paddlex`` for an inference directory (a static graph that maps an image (1, 3, S, S) and prompts
            to low-resolution logits), ``native`` for one file ``model.safetensors``, ``meta`` for one ``model.pth`` in
            the format of Meta's; of another network than SAM's it holds the prompt encoder and mask decoder alone, to
            be loaded over the published weights.
        prompt: for ``paddlex``, what its graph takes: boxes (N, 4) or one positive point (1, 1, 2), in model pixels.

    Raises:
        WeightsError: PaddleX has no such network, the weights cannot answer this kind of prompt, or the directory
            cannot be written.
    """
    target = Path(directory)
    if file_format == "paddlex" and not isinstance(checkpoint.config.image_encoder, VitConfig | ConvConfig):
        raise WeightsError(
            f"{checkpoint.path}: expected weights of SAM's own network, got {checkpoint.config.name}, which PaddleX "
            "does not know; --format native writes them as one safetensors file"
        )
    capability = "boxes" if prompt == "box" else "points"
    if file_format == "paddlex" and capability not in checkpoint.capabilities:
        raise WeightsError(
            f"{checkpoint.path}: expected weights that take {capability}, got {checkpoint.model_version}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as unfinished:
            if file_format == "native":
                native.write(checkpoint, Path(unfinished, NATIVE_FILE))
            elif file_format == "meta":
                meta_pth.write(_MetaTensors(checkpoint), Path(unfinished, META_FILE))
            else:
                _write_paddlex(checkpoint, Path(unfinished), prompt)
            target.mkdir(exist_ok=True)
            for file in Path(unfinished).iterdir():
                shutil.move(file, target / file.name)
    except OSError as error:
        raise WeightsError(f"{target}: expected a directory to write to, got: {error}") from error
    return target


class _MetaTensors(Mapping[str, FloatArray]):
    """A checkpoint's tensors as Meta names them and PyTorch lays them out, each made when it is read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = checkpoint.tensors
        has_vit = isinstance(checkpoint.config.image_encoder, VitConfig)
        names = [name for name in checkpoint.tensors if has_vit or name.startswith(decoder_weights.PREFIXES)]
        is_sam2 = checkpoint.config.family == "sam2"
        self._names = {sam2_names.to_meta(name) if is_sam2 else name: name for name in names}

    def __getitem__(self, key: str) -> FloatArray:
        name = self._names[key]
        array = self._tensors[name]
        return array.T if parameters.is_linear_weight(name) else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _write_paddlex(checkpoint: Checkpoint, directory: Path, prompt: PromptKind) -> None:
    import paddle  # takes seconds, and only this export needs it

    from model import device as devices

    size = checkpoint.config.image_size
    sides = [None, 4] if prompt == "box" else [1, 1, 2]
    specs = [
        paddle.static.InputSpec([1, 3, size, size], "float32", "img"),
        paddle.static.InputSpec(sides, "float32", "prompt"),
    ]
    with devices.building(), paddle.utils.unique_name.guard(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensor do not have 'place'")  # Paddle's paddle.where about itself
        network = _network(checkpoint, prompt)
        static = paddle.jit.to_static(network, input_spec=specs, full_graph=True)
        paddle.jit.save(static, str(directory / Path(paddlex.PIR).stem))
    paddlex_yaml.write(directory / paddlex.DESCRIPTION, MODEL_NAMES[prompt], checkpoint.config)


def _network(checkpoint: Checkpoint, prompt: PromptKind) -> "nn.Layer":
    """Return encoder and decoder as the one layer that PaddleX's graph holds, filled and in evaluation."""
    import paddle
    from paddle import nn

    from model.build import image_encoder
    from model.modeling.mask_decoder import MaskDecoder
    from model.modeling.prompt_encoder import PromptEncoder

    class Sam(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            # In the order of Meta's code: the numbers in the parameters' names tell readers which is which.
            self.image_encoder = image_encoder(checkpoint.config)
            self.prompt_encoder = PromptEncoder(checkpoint.config)
            self.mask_decoder = MaskDecoder(checkpoint.config)

        def forward(self, img: paddle.Tensor, prompt: paddle.Tensor) -> paddle.Tensor:
            embedding = encode(self, img)  # (1, C, g, g)
            tokens = embedding.flatten(2).transpose([0, 2, 1])  # (1, g*g, C)
            if kind == "box":
                sparse = self.prompt_encoder.boxes(prompt)  # (N, 2, C)
            else:
                sparse = self.prompt_encoder.points(prompt, paddle.ones([1, 1]), True)  # (1, 2, C)
            # One image per prompt: for a batch of one against an open number Paddle infers the wrong shape, one.
            image = (tokens + self.prompt_encoder.dense(None)).expand([sparse.shape[0], *tokens.shape[1:]])
            # All masks are made, although PaddleX wants the first, so that the export keeps what makes the others.
            logits, _ = self.mask_decoder(image, self.prompt_encoder.image_pe(), sparse, outputs)
            return logits[:, :1]  # (N, 1, 4g, 4g)

    # Its sizes are fixed, so tracing is enough; Paddle's rewriting of Python, for open sizes, knows only some of it.
    encode = paddle.jit.not_to_static(lambda sam, img: sam.image_encoder(img))
    kind, outputs = prompt, list(range(checkpoint.config.num_multimask_outputs + 1))
    network = Sam()
    for name, parameter in network.named_parameters():
        if name in checkpoint.tensors:  # the rest is pruned, and not in this graph
            parameter.set_value(np.ascontiguousarray(checkpoint.tensors[name], np.float32))
    network.eval()
    return network
