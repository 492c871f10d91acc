"""A labeling config as values: its images, the controls that draw on them, and their labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from backend.shapes import DEFAULT_DETAIL, Detail, ShapeKind

PAINTED = (ShapeKind.BRUSH, ShapeKind.BITMASK)  # kinds whose tools call no model, smart or not
OUTLINES = (ShapeKind.RECTANGLE, ShapeKind.ELLIPSE)  # kinds that hold only the extent of a mask


def loosely(name: str) -> str:
    """Return the form in which names of labels are compared that differ in case or surrounding spaces."""
    return name.strip().casefold()


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
    """A tag that offers labels: a separate ``<Labels>``, or a control with labels of its own."""

    name: str  # the ``from_name`` of results
    to_names: tuple[str, ...]  # the names of the object tags it applies to
    labels: tuple[str, ...] = ()  # the labels as results name them, in order: by alias, else by value
    values: tuple[tuple[str, str], ...] = ()  # (value, alias) of each label that has both
    # whether the labels come with each task instead of the config, so that any label is valid
    labels_vary: bool = False
    # (label, words) of each label with a ``prompt``, which spells it for a detector
    prompts: tuple[tuple[str, str], ...] = ()

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Every label by its exact names: alias and value."""
        return {**dict(reversed(self.values)), **{label: label for label in self.labels}}

    @cached_property
    def loose_spellings(self) -> dict[str, str]:
        """Every label by its names, see `loosely`; the first of equal names wins."""
        return {loosely(name): label for name, label in reversed(self.spellings.items())}


@dataclass(frozen=True)
class Control:
    """A control tag of the labeling config that draws regions on an image."""

    name: str  # the region's ``from_name``
    tag: str  # the tag's name as written in the config, e.g. ``BrushLabels``
    kind: ShapeKind
    to_names: tuple[str, ...]  # the object tags it draws on
    # the labels it offers; None for the kinds without labels (``Brush``, ``Rectangle``...)
    own: LabelsTag | None = None
    # its ``smart`` attribute, None where the config has none; the editor sends the control's regions to this backend
    # unless it is False
    smart: bool | None = None
    is_output: bool = True  # whether this backend may answer with it; ``model_output="false"`` in the config says no
    # how closely its answers follow their masks, as far as the config says; see `backend.labeling.config`
    detail: Detail = DEFAULT_DETAIL

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
        """Its own labels, in order."""
        return self.own.labels if self.own is not None else ()

    @property
    def is_smart(self) -> bool:
        """Whether the editor sends regions of this control to this backend."""
        return self.smart is not False

    @property
    def is_prompt(self) -> bool:
        """Whether the config declares it a prompt tool."""
        return self.smart is True and self.kind not in PAINTED


Tag = TypeVar("Tag", Control, LabelsTag)


@dataclass(frozen=True)
class LabelConfig:
    """The part of a labeling config that concerns images."""

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...] = ()
    labels: tuple[LabelsTag, ...] = ()  # the separate ``<Labels>`` tags on them

    @cached_property
    def controls_by_image(self) -> Mapping[str, tuple[Control, ...]]:
        """The controls by the names of the images they draw on."""
        return _by_image(self.controls)

    @cached_property
    def labels_by_image(self) -> Mapping[str, tuple[LabelsTag, ...]]:
        """The separate ``<Labels>`` by the names of the images they apply to."""
        return _by_image(self.labels)

    @property
    def output_label_tags(self) -> tuple[LabelsTag, ...]:
        """The tags whose labels answers may have: those of controls that answers are drawn with, and ``<Labels>``."""
        own = (control.own for control in self.controls if control.is_output)
        return (*(tag for tag in own if tag is not None), *self.labels)


def _by_image(tags: Iterable[Tag]) -> dict[str, tuple[Tag, ...]]:
    by_image: dict[str, dict[str, Tag]] = {}
    for tag in tags:
        for to_name in tag.to_names:
            by_image.setdefault(to_name, {})[tag.name] = tag
    return {to_name: tuple(named.values()) for to_name, named in by_image.items()}


@dataclass(frozen=True)
class OutputTag:
    """The control that an object is answered with, and the labels of the answer."""

    control: Control
    # the object's labels as the config spells them; empty when it has none, or none of the config
    labels: tuple[str, ...] = ()
    # name of the separate ``<Labels>`` that holds them, None where the control itself does
    labels_control: str | None = None
