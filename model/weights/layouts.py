"""From parameters as PyTorch's libraries name and keep them to a checkpoint: Meta's names, Paddle's layout."""

from collections.abc import Mapping
from pathlib import Path

from model.weights import configuration, huggingface, names
from model.weights.checkpoint import Checkpoint, assemble, digest_of
from model.weights.tensors import Stored


def from_torch(path: Path, stored: Mapping[str, Stored], name: str | None) -> Checkpoint:
    """Return the checkpoint of a state dict with Meta's names or those of ``transformers``.

    Raises:
        WeightsError: it is not that of a SAM network.
    """
    heads, file_format = configuration.DECODER_HEADS, "meta"
    if huggingface.has_its_names(stored):
        stored = huggingface.renamed(stored)
        heads, file_format = huggingface.decoder_heads(path.with_name("config.json")), "huggingface"
    # PyTorch keeps a Linear weight as [out, in].
    laid_out = {key: value.transposed() if _transposes(key, value) else value for key, value in stored.items()}
    digest = digest_of([path])
    return assemble(path, laid_out, name=name, digest=digest, file_format=file_format, decoder_heads=heads)


def _transposes(name: str, stored: Stored) -> bool:
    return names.is_linear_weight(name) and len(stored.shape) == 2
