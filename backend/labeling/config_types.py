"""A labeling config as values: which images it shows, what can be drawn on them, and with which labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from backend.shapes import ShapeKind

PAINTED = (ShapeKind.BRUSH, ShapeKind.BITMASK)
"""Kinds whose tools ask no model, smart or not."""

OUTLINES = (ShapeKind.RECTANGLE, ShapeKind.ELLIPSE)
"""Kinds that hold a mask's extent and not the mask."""


@dataclass(frozen=True)
class ImageTag:
    """An ``<Image>`` of the labeling config; ``value`` and ``value_list`` are as written there, e.g. ``$image``.

    Inside ``<Repeater on="$pages">`` names and values hold an index flag such as ``{{idx}}``: ``repeats`` gives the
    (``on``, flag) of every repeater around the tag, outermost first.
    """

    name: str
    value: str = ""
    value_list: str = ""
    repeats: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LabelsTag:
    """A tag that offers labels: a separate ``<Labels>``, or a control with labels of its own.

    Attributes:
        name: the ``from_name`` of results.
        to_names: the object tags it is for.
        labels: the labels as results name them, in order: by alias, else by value.
        values: the value and the label of each label that has both.
        labels_vary: whether the labels come with each task instead of the config, so that any label is one of them.
    """

    name: str
    to_names: tuple[str, ...]
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    labels_vary: bool = False

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Every label by the names that mean it exactly: alias and value."""
        return {**dict(reversed(self.values)), **{label: label for label in self.labels}}

    @cached_property
    def loose_spellings(self) -> dict[str, str]:
        """Every label by its names without the spaces around them, whatever their case; the first one counts."""
        return {name.strip().casefold(): label for name, label in reversed(self.spellings.items())}


@dataclass(frozen=True)
class Control:
    """A control tag of the labeling config that draws regions on an image.

    Attributes:
        name: the region's ``from_name``.
        tag: as written in the config, e.g. ``BrushLabels``.
        kind: what it draws.
        to_names: the object tags it draws on.
        own: the labels it offers; None for the kinds without labels (``Brush``, ``Rectangle``...).
        smart: what the config says of it; the editor sends what is drawn with it to this backend unless that is
            False.
        is_output: whether this backend may answer with it; ``model_output="false"`` in the config says no.
    """

    name: str
    tag: str
    kind: ShapeKind
    to_names: tuple[str, ...]
    own: LabelsTag | None = None
    smart: bool | None = None
    is_output: bool = True

    @property
    def type(self) -> str:
        """The region type on the wire, e.g. ``brushlabels``."""
        return self.tag.lower()

    @property
    def has_labels(self) -> bool:
        """Whether its regions carry their own label (``BrushLabels``) rather than one of a ``<Labels>`` (``Brush``)."""
        return self.own is not None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its own, in order."""
        return self.own.labels if self.own is not None else ()

    @property
    def is_smart(self) -> bool:
        """Whether the editor sends what is drawn with it to this backend."""
        return self.smart is not False

    @property
    def is_prompt(self) -> bool:
        """Whether the config says that it is there to prompt with."""
        return self.smart is True and self.kind not in PAINTED


@dataclass(frozen=True)
class LabelConfig:
    """A labeling config, as far as images are concerned.

    Attributes:
        images: the ``<Image>`` tags in document order.
        controls: the region-drawing tags on them, in document order.
        labels: the separate ``<Labels>`` tags on them.
    """

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...] = ()
    labels: tuple[LabelsTag, ...] = ()

    @cached_property
    def controls_by_image(self) -> Mapping[str, tuple[Control, ...]]:
        """The controls by the names of what they draw on."""
        found: dict[str, dict[str, Control]] = {}
        for control in self.controls:
            for to_name in control.to_names:
                found.setdefault(to_name, {})[control.name] = control
        return {to_name: tuple(those.values()) for to_name, those in found.items()}

    @cached_property
    def labels_by_image(self) -> Mapping[str, tuple[LabelsTag, ...]]:
        """The separate ``<Labels>`` by the names of what they are for."""
        found: dict[str, dict[str, LabelsTag]] = {}
        for tag in self.labels:
            for to_name in tag.to_names:
                found.setdefault(to_name, {})[tag.name] = tag
        return {to_name: tuple(those.values()) for to_name, those in found.items()}


@dataclass(frozen=True)
class OutputTag:
    """How one object is to be answered: with which control, and with which labels it offers.

    Attributes:
        control: what the object's regions are drawn as.
        labels: the object's labels as the config spells them; empty when it has none, or none that the config knows.
        labels_control: name of the separate ``<Labels>`` that holds them, None where the control itself does.
    """

    control: Control
    labels: tuple[str, ...] = ()
    labels_control: str | None = None
