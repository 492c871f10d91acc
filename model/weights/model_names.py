"""Whether weights are those of the model that was named."""

from model.config import ConvConfig, HieraConfig, SamConfig, TinyVitConfig, VitConfig
from model.weights.catalogue import NAMED
from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.formats import paddlex, paddlex_yaml


def check(model_name: str, otherwise: str) -> None:
    """Refuse a name that is none of a model; ``otherwise`` says what else can be done.

    Raises:
        WeightsError: with the names that are known.
    """
    if model_name not in NAMED:
        raise WeightsError(f"{model_name!s:.80}: expected one of {', '.join(NAMED)}; {otherwise}")


def check_weights(model_name: str, checkpoint: Checkpoint) -> None:
    """Refuse weights of another model than was named; a directory of PaddleX says itself of which it is.

    ``SAM-H_box`` and ``SAM-H_point`` are PaddleX's names for what weights take, whatever the network's size;
    ``sam_vit_*`` are Meta's for its size.

    Args:
        model_name: one of `model.weights.catalogue.NAMED`.
        checkpoint: the weights.

    Raises:
        WeightsError: they are of another model.
    """
    described = None
    if checkpoint.format == "paddlex":
        described = paddlex_yaml.read(checkpoint.path / paddlex.DESCRIPTION).model_name
    got = _mismatch(model_name, checkpoint) if described is None else described
    if got not in (None, model_name):
        raise WeightsError(f"Model name mismatch: expected weights of {model_name}, got {got:.80} in {checkpoint.path}")


def _mismatch(model_name: str, checkpoint: Checkpoint) -> str | None:
    """Return what the weights are instead, as far as a file without a name in it shows that."""
    entry = NAMED[model_name]
    if entry.config is None:
        able = ", ".join(sorted(checkpoint.capabilities - {"score"})).replace("_", " ")
        return None if checkpoint.capabilities.issuperset(entry.capabilities) else f"weights that take {able}"
    return None if _sizes(entry.config()) == _sizes(checkpoint.config) else _kind(checkpoint.config)


def _sizes(config: SamConfig) -> tuple[object, ...]:
    """Return the sizes in which named networks differ; every convolutional one is the demo model's."""
    encoder = config.image_encoder
    if isinstance(encoder, VitConfig):
        return encoder.kind, encoder.embed_dim, encoder.depth, encoder.num_heads
    return (encoder.kind, encoder) if isinstance(encoder, TinyVitConfig | HieraConfig) else (encoder.kind,)


def _kind(config: SamConfig) -> str:
    encoder = config.image_encoder
    if isinstance(encoder, ConvConfig):
        return "a convolutional network"
    if isinstance(encoder, TinyVitConfig):
        return f"a TinyViT of {sum(encoder.depths)} blocks, {encoder.embed_dims[-1]} channels"
    if isinstance(encoder, HieraConfig):
        return f"a Hiera of {sum(encoder.depths)} blocks, {encoder.embed_dim} channels at first"
    return f"a Vision Transformer of {encoder.depth} blocks, {encoder.embed_dim} channels"
