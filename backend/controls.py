"""A labeling config as values: which images it shows, what can be drawn on them, and with which labels."""

from dataclasses import dataclass

from backend.shapes import ShapeKind


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
class Control:
    """A control tag of the labeling config that draws regions on an image.

    Attributes:
        name: the region's ``from_name``.
        tag: as written in the config, e.g. ``BrushLabels``.
        kind: what it draws.
        to_names: the object tags it draws on.
        labels: the labels it offers, in order; empty for the kinds without labels (``Brush``, ``Rectangle``...).
        is_smart: whether the editor sends what is drawn with it to this backend; ``smart="false"`` in the config
            says no.
        is_output: whether this backend may answer with it; ``model_output="false"`` in the config says no.
        labels_vary: whether the labels come with each task instead of the config, so that any label is one of them.
    """

    name: str
    tag: str
    kind: ShapeKind
    to_names: tuple[str, ...]
    labels: tuple[str, ...] = ()
    is_smart: bool = True
    is_output: bool = True
    labels_vary: bool = False

    @property
    def type(self) -> str:
        """The region type on the wire, e.g. ``brushlabels``."""
        return self.tag.lower()

    @property
    def has_labels(self) -> bool:
        """Whether its regions carry their own label (``BrushLabels``) rather than one of a ``<Labels>`` (``Brush``)."""
        return self.type.endswith("labels")


@dataclass(frozen=True)
class LabelsTag:
    """A ``<Labels>`` of the labeling config: labels for the kinds of region that have none of their own."""

    name: str
    to_names: tuple[str, ...]
    labels: tuple[str, ...]
    labels_vary: bool = False


@dataclass(frozen=True)
class Controls:
    """A labeling config, as far as images are concerned.

    Attributes:
        images: the ``<Image>`` tags in document order.
        controls: the region-drawing tags on them, in document order.
        labels: the separate ``<Labels>`` tags on them.
    """

    images: tuple[ImageTag, ...]
    controls: tuple[Control, ...] = ()
    labels: tuple[LabelsTag, ...] = ()


@dataclass(frozen=True)
class Output:
    """How one object is to be answered: with which control, and with which labels it offers.

    Attributes:
        control: what the object's regions are drawn as.
        labels: the object's labels as the config spells them; empty when it has none, or none that the config knows.
        labels_control: name of the separate ``<Labels>`` that holds them, None where the control itself does.
    """

    control: Control
    labels: tuple[str, ...] = ()
    labels_control: str | None = None
