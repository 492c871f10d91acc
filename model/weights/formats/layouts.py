"""From parameters as PyTorch's libraries name and keep them to a checkpoint: Meta's names, Paddle's layout."""

from collections.abc import Mapping
from pathlib import Path

from model.weights import infer_config, parameters, sam2_names
from model.weights.checkpoint import Checkpoint, assemble, digest_of
from model.weights.formats import huggingface
from model.weights.tensors import Stored

_TELLING = (
    "image_encoder.blocks.0.mlp.lin1",
    "image_encoder.layers.1.blocks.0.mlp.fc1",
    "image_encoder.trunk.blocks.0.mlp.lin1",
)
"""A Linear layer of SAM's, one of MobileSAM's and one of SAM 2's encoder, with more outputs than inputs."""


def from_torch(path: Path, stored: Mapping[str, Stored], name: str | None) -> Checkpoint:
    """Return the checkpoint of a state dict with Meta's names or those of ``transformers``.

    Raises:
        WeightsError: it is not that of a SAM network.
    """
    heads, file_format, trunk, image_size = infer_config.DECODER_HEADS, "meta", None, None
    if huggingface.has_its_names(stored):
        description = path.with_name("config.json")
        heads, file_format = huggingface.decoder_heads(description), "huggingface"
        if sam2_names.is_huggingface(stored):
            stored = sam2_names.from_huggingface(stored)
            trunk, image_size = huggingface.trunk(description)
        else:
            stored = huggingface.renamed(stored)
    elif sam2_names.is_meta(stored):
        stored = sam2_names.from_meta(stored)
    laid_out = stored if _is_paddles(stored) else {key: _transposed(key, value) for key, value in stored.items()}
    return assemble(
        path,
        laid_out,
        name=name,
        digest=digest_of([path]),
        file_format=file_format,
        decoder_heads=heads,
        trunk=trunk,
        image_size=image_size,
    )


def _transposed(name: str, value: Stored) -> Stored:
    """Return the matrix of a Linear layer, which PyTorch keeps as [out, in], as Paddle keeps it."""
    return value.transposed() if parameters.is_linear_weight(name) and len(value.shape) == 2 else value


def _is_paddles(stored: Mapping[str, Stored]) -> bool:
    """Whether Linear weights are [in, out] already, as in safetensors of Paddle's libraries: one matrix shows it."""
    layer = next((layer for layer in _TELLING if f"{layer}.weight" in stored), _TELLING[0])
    matrix, bias = (stored.get(f"{layer}.{part}") for part in ("weight", "bias"))
    if matrix is None or bias is None or len(matrix.shape) != 2:
        return False
    return matrix.shape[0] != matrix.shape[1] and (matrix.shape[1],) == bias.shape
