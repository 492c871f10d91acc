"""The options that say what everything in a picture is: `model.automatic.AutomaticSettings`, word for word."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # at run time it would make ``--help`` wait for numpy
    from model.automatic import AutomaticSettings

Command = Callable[..., None]

_SHARE = click.FloatRange(0, 1)

_OPTIONS = (
    ("points_per_side", click.IntRange(1), "N", "Points along each side of the grid that asks.  [default: 32]"),
    ("points_per_batch", click.IntRange(1), "N", "Points given to the decoder in one call.  [default: 64]"),
    ("pred_iou_thresh", _SHARE, "X", "Least predicted IoU of a mask.  [default: 0.88; for the demo model 0.65]"),
    ("stability_score_thresh", _SHARE, "X",
     "Least IoU of the masks that a higher and a lower cut-off give.  [default: 0.95; for the demo model 0.8]"),
    ("stability_score_offset", click.FloatRange(0), "X", "How far the cut-off is moved for that.  [default: 1]"),
    ("box_nms_thresh", _SHARE, "X", "Of two masks whose boxes have a greater IoU one goes.  [default: 0.7]"),
    ("crop_n_layers", click.IntRange(0), "N",
     "How many times to look closer, at 4, 16, ... crops; each costs an encode.  [default: 0]"),
    ("crop_nms_thresh", _SHARE, "X", "As --box-nms-thresh, between crops.  [default: 0.7]"),
    ("crop_overlap_ratio", _SHARE, "X", "By which share of the picture crops overlap.  [default: 0.3413]"),
    ("crop_n_points_downscale_factor", click.IntRange(1), "N", "So many times fewer points per layer.  [default: 1]"),
    ("min_mask_region_area", click.IntRange(0), "PIXELS", "Fill smaller holes, remove smaller islands.  [default: 0]"),
    ("mask_nms_thresh", _SHARE, "X", "The same for masks that have a greater IoU themselves.  [default: off]"),
    ("max_masks", click.IntRange(1), "N", "At most so many masks per picture, the best.  [default: all]"),
    ("min_area_share", _SHARE, "X", "Least share of the picture that a mask covers.  [default: 0]"),
    ("max_area_share", _SHARE, "X", "Greatest share of the picture that a mask covers.  [default: 1]"),
)  # fmt: skip


def everything_options(function: Command) -> Command:
    """Add an option for each setting, and hand those that were given to ``function`` as a mapping ``limits``."""

    @wraps(function)
    def take(**given: Any) -> None:  # noqa: ANN401 - click's options are of many types
        limits = {name: given.pop(name) for name, *_ in _OPTIONS}
        function(limits={name: value for name, value in limits.items() if value is not None}, **given)

    command: Command = take
    for name, kind, metavar, text in reversed(_OPTIONS):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, metavar=metavar, help=text)(command)
    return command


def settings_of(network: str, limits: Mapping[str, object]) -> "AutomaticSettings":
    """Return the settings that the options say, for a network of that name.

    Raises:
        click.UsageError: they contradict each other.
    """
    from model.automatic import settings_for

    try:
        return settings_for(network, **limits)
    except ValueError as error:
        name, _, rest = str(error).partition(":")
        raise click.UsageError(f"--{name.replace('_', '-')}:{rest}") from error
