"""Whether weights are those of the model that was named."""

from model.config import ConvConfig, VitConfig, vit_b, vit_h, vit_l
from model.weights.checkpoint import Checkpoint
from model.weights.errors import WeightsError
from model.weights.formats import paddlex, paddlex_yaml
from model.weights.parameters import Capability

DEMO = "demo"
_PRESETS = {"sam_vit_b": vit_b, "sam_vit_l": vit_l, "sam_vit_h": vit_h}
_PROMPTS: dict[str, Capability] = {"SAM-H_box": "boxes", "SAM-H_point": "points"}
KNOWN = (DEMO, *_PROMPTS, *_PRESETS)


def check(model_name: str, otherwise: str) -> None:
    """Refuse a name that is none of a model; ``otherwise`` says what else can be done.

    Raises:
        WeightsError: with the names that are known.
    """
    if model_name not in KNOWN:
        raise WeightsError(f"{model_name!s:.80}: expected one of {', '.join(KNOWN)}; {otherwise}")


def check_weights(model_name: str, checkpoint: Checkpoint) -> None:
    """Refuse weights of another model than was named; a directory of PaddleX says itself of which it is.

    ``SAM-H_box`` and ``SAM-H_point`` are PaddleX's names for what weights take, whatever the network's size;
    ``sam_vit_*`` are Meta's for its size.

    Args:
        model_name: one of `KNOWN`.
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
    """Return what the weights are instead, as far as that can be told of a file without a name in it."""
    if model_name in _PROMPTS:
        able = ", ".join(sorted(checkpoint.capabilities - {"score"})).replace("_", " ")
        return None if _PROMPTS[model_name] in checkpoint.capabilities else f"weights that take {able}"
    encoder = checkpoint.config.image_encoder
    if model_name == DEMO or isinstance(encoder, ConvConfig):
        return None if model_name == DEMO and isinstance(encoder, ConvConfig) else _kind(checkpoint)
    expected = _PRESETS[model_name]().image_encoder
    assert isinstance(expected, VitConfig)
    sizes = ((one.embed_dim, one.depth, one.num_heads) for one in (expected, encoder))
    return None if len(set(sizes)) == 1 else _kind(checkpoint)


def _kind(checkpoint: Checkpoint) -> str:
    encoder = checkpoint.config.image_encoder
    if isinstance(encoder, ConvConfig):
        return "a convolutional network"
    return f"a Vision Transformer of {encoder.depth} blocks, {encoder.embed_dim} channels"
