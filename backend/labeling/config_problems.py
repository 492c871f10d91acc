"""What keeps a labeling config from working with this backend, in words that say what to write instead."""

from collections.abc import Iterable, Sequence

from backend.errors import ConfigError
from backend.labeling import config
from backend.labeling.config_types import PAINTED, Control, LabelConfig, LabelsTag
from backend.labeling.output_choice import Outputs, answering
from backend.shapes import OUTPUT_KINDS, ShapeKind

SHOWN = 5  # names in a sentence
LONGEST_NAME = 100  # characters of a name in a sentence
MOST_IMAGES = 20  # that are looked at: a config with more is a list of the same

JSON_ONLY = "JSON"
EXPORTS = {
    "brushlabels": "PNG, NumPy and brush to COCO",
    "brush": "PNG and NumPy",
    "polygonlabels": "COCO and YOLO",
    "rectanglelabels": "COCO and YOLO",
    "rectangle": "COCO and YOLO",
}
"""What label-studio-sdk 2.1.2 exports labelled regions of a type to, besides JSON; others to nothing."""


def problems(controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> tuple[str, ...]:
    """Return what keeps clicks of a project from being answered, or answered with their labels.

    Args:
        controls: the project's labeling config.
        preference: the kinds that may be answered with, the preferred ones first.
    """
    tags: list[Control | LabelsTag] = [*controls.labels, *controls.controls]
    found = [_shared(one) for one in tags if len(one.to_names) > 1][:SHOWN]
    for image in controls.images[:MOST_IMAGES]:
        here = config.on_image(controls, image.name)
        try:
            Outputs(here, preference)
        except ConfigError as error:
            found.append(str(error))
        else:
            found += _labels(here, preference, is_alone=not controls.labels)
        name = image.name[:LONGEST_NAME]
        if not any(control.is_smart for control in here.controls):
            found.append(
                f"label_config: no control on image {name!r} is smart, so no click reaches this backend; add for "
                f'instance <KeyPointLabels name="point" toName="{name}" smart="true"><Label value="Object"/>'
                "</KeyPointLabels>"
            )
    return tuple(found)


def export_hints(controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> tuple[str, ...]:
    """Return which answers of a project Label Studio's own exporter leaves out of COCO.

    Args:
        controls: the project's labeling config.
        preference: the kinds that may be answered with, the preferred ones first.
    """
    tags = {
        answer.tag: EXPORTS.get(answer.type, JSON_ONLY)
        for image in controls.images[:MOST_IMAGES]
        for answer in answering(config.on_image(controls, image.name), preference)[:1]
        if "COCO" not in EXPORTS.get(answer.type, JSON_ONLY)
    }
    return tuple(
        f"answers are drawn with <{tag}>, which Label Studio exports to {where} only" for tag, where in tags.items()
    )


def _shared(tag: Control | LabelsTag) -> str:
    written = tag.tag if isinstance(tag, Control) else "Labels"
    return (
        f'label_config: expected one image in toName of <{written} name="{tag.name}">, got {_names(tag.to_names)}: the '
        "editor connects it to neither, so that a chosen label is lost; give each image a tag of its own"
    )


def _labels(here: LabelConfig, preference: Sequence[ShapeKind], is_alone: bool) -> list[str]:
    """Return which labels of prompts on one image no answer can have, and which of answers no prompt.

    Args:
        here: what is on that image, see `backend.labeling.config.on_image`.
        preference: the kinds that may be answered with.
        is_alone: whether no image of the config has separate ``<Labels>``.
    """
    image = here.images[0].name[:LONGEST_NAME]
    asking = [one for one in here.controls if one.is_smart and one.kind not in PAINTED]
    prompts = list(_offers(asking, here.labels))
    offers = list(_offers(answering(here, preference), here.labels))
    if any(tag.labels_vary for tag in (*prompts, *offers)):
        return []
    known = {name for tag in offers for name in tag.loose_spellings}
    said = dict.fromkeys(label for tag in prompts for label in tag.labels)
    offered = dict.fromkeys(label for tag in offers for label in tag.labels)
    lost = [label for label in said if label.strip().casefold() not in known]
    if lost:
        got = f"none of the labels {_names(offered)} of the answers" if offered else "no labels on what answers"
        return [
            f"label_config: on image {image!r} prompts are labelled {_names(lost)}, and {got} is one of these, so that "
            "masks come without a label; name the labels of prompts and answers alike"
        ]
    if len(offered) > 1 and not said and asking:
        return [
            f"label_config: prompts on image {image!r} have no labels, so that masks come without one of "
            f'{_names(offered)}; add <Labels name="label" toName="{image}"> with these labels'
        ]
    if not offered and not said and not is_alone:
        return [f'label_config: there are no labels for image {image!r}; add <Labels name="..." toName="{image}">']
    return []


def _offers(controls: Iterable[Control], shared: Sequence[LabelsTag]) -> Iterable[LabelsTag]:
    """Yield the tags whose labels controls can have, each once."""
    found: dict[int, LabelsTag] = {}
    for control in controls:
        for tag in (control.own,) if control.own is not None else shared:
            found.setdefault(id(tag), tag)
    return found.values()


def _names(labels: Iterable[str]) -> str:
    """Return a few labels, as they may be told."""
    listed = list(labels)
    shown = ", ".join(repr(label[:40]) for label in listed[:SHOWN])
    return shown + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
