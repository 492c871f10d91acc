"""The options that say which weights to use and where to run them, and the model they choose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # at run time they would make ``--help`` wait for numpy
    from model.paddlex.model import SamModel
    from model.weights import Checkpoint

DEFAULT_MODEL = "demo"

Command = Callable[..., None]

_OWN = "--weights takes the path of weights that you have"

weights_dir_option = click.option(
    "--weights-dir",
    metavar="DIR",
    envvar="MODEL_DIR",
    help="Where downloaded weights are kept.  [env: MODEL_DIR; default: the user's cache folder]",
)
_WEIGHTS_OPTIONS = (
    click.option("--model", "model_name", metavar="NAME", help=f"Name of the model.  [default: {DEFAULT_MODEL}]"),
    click.option(
        "--weights",
        metavar="NAME|PATH",
        multiple=True,
        help="A model's name, or weights in any format; twice to merge a box and a point export.",
    ),
    click.option(
        "--decoder",
        metavar="FILE",
        help="A decoder that was fine-tuned from these weights.  [default: their own]",
    ),
    weights_dir_option,
    click.option(
        "--mirror",
        metavar="URL",
        envvar="MODEL_MIRROR",
        help="A folder with the published files, instead of their publishers'.  [env: MODEL_MIRROR; default: none]",
    ),
)
_DEVICE_OPTIONS = (
    click.option(
        "--device",
        default="auto",
        metavar="DEVICE",
        envvar=["PADDLE_SAM_DEVICE", "DEVICE"],
        help="auto, cpu or gpu:N.  [env: PADDLE_SAM_DEVICE, DEVICE; default: auto]",
    ),
    click.option(
        "--dtype",
        default="float32",
        metavar="DTYPE",
        help="What the encoder computes in: float32, float16 or bfloat16.  [default: float32]",
    ),
)


@dataclass(frozen=True)
class Choice:
    """What the options say; see `create_model` for their meaning."""

    model_name: str | None = None
    weights: Sequence[str] = ()
    decoder: str | None = None
    weights_dir: str | None = None
    mirror: str | None = None
    device: str = "auto"
    dtype: str = "float32"

    def checkpoint(self) -> "Checkpoint":
        """Read the weights, merged where there are two, and with the chosen decoder.

        Raises:
            WeightsError: they are not there, or not those of a SAM network, or the decoder is not theirs.
        """
        from model.weights import decoder_weights

        checkpoint = self._base()
        return (
            checkpoint
            if self.decoder is None
            else decoder_weights.apply(checkpoint, decoder_weights.read(self.decoder))
        )

    def _base(self) -> "Checkpoint":
        from model.paddlex.model import find_weights
        from model.weights import merge, model_names, read

        if len(self.weights) > 2:
            raise click.UsageError(f"--weights: expected at most two, got {len(self.weights)}")
        if not self.weights:
            name = self.model_name or DEFAULT_MODEL
            return read(find_weights(name, self.weights_dir, self.mirror, _OWN), name)
        first, *rest = [self._read(given) for given in self.weights]
        checkpoint = merge(first, rest[0]) if rest else first
        if self.model_name is not None:
            model_names.check(self.model_name, "without --model any weights are taken")
            model_names.check_weights(self.model_name, checkpoint)
        return checkpoint

    def _read(self, given: str) -> "Checkpoint":
        """Read one of ``weights``: a published model's name, whatever is called so here, or a path."""
        from model.paddlex.model import find_weights
        from model.weights import read
        from model.weights.catalogue import NAMED

        if given not in NAMED:
            return read(given, self.model_name)
        return read(find_weights(given, self.weights_dir, self.mirror, _OWN), self.model_name or given)

    def model(self) -> "SamModel":
        """Load the model.

        Raises:
            WeightsError: as `checkpoint`.
            DeviceError: the device or dtype is not available on this machine.
        """
        from model.paddlex.model import load

        if not self.weights and self.model_name in (None, DEFAULT_MODEL):
            click.echo(f"{DEFAULT_MODEL} is for trying things out, not for labelling photographs.", err=True)
        return load(self.checkpoint(), device=self.device, dtype=self.dtype)


def weights_options(function: Command) -> Command:
    """Add the options that choose weights, and hand them to ``function`` as its argument ``choice``."""
    return _with(function, _WEIGHTS_OPTIONS)


def model_options(function: Command) -> Command:
    """Add the options that choose weights, device and dtype, and hand them on as ``choice``."""
    return _with(function, _WEIGHTS_OPTIONS + _DEVICE_OPTIONS)


def _with(function: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    @wraps(function)
    def take(**given: Any) -> None:  # noqa: ANN401 - click's options are of many types
        chosen = {field.name: given.pop(field.name) for field in fields(Choice) if field.name in given}
        function(choice=Choice(**chosen), **given)

    command: Command = take
    for option in reversed(options):
        command = option(command)
    return command
