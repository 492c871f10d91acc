"""Finds the problems of a labeling config for this backend, and says what to write instead."""

from collections.abc import Iterable, Sequence

from backend.errors import ConfigError
from backend.labeling import config
from backend.labeling.config_types import PAINTED, Control, LabelConfig, LabelsTag, loosely
from backend.labeling.output_choice import Outputs, answering
from backend.shapes import OUTPUT_KINDS, ShapeKind

SHOWN = 5  # names in a sentence
LONGEST_NAME = 100  # characters of a name in a sentence
MOST_IMAGES = 20  # images that are checked: with more, the rest repeat

JSON_ONLY = "JSON"
_COCO_AND_YOLO = "COCO and YOLO"
EXPORTS = {
    "brushlabels": "PNG, NumPy and brush to COCO",
    "brush": "PNG and NumPy",
    "polygonlabels": _COCO_AND_YOLO,
    "rectanglelabels": _COCO_AND_YOLO,
    "rectangle": _COCO_AND_YOLO,
}
"""The formats, besides JSON, to which label-studio-sdk 2.1.2 exports labelled regions of each type."""

_LABELS_LOST = (
    "prompts are drawn with <KeyPointLabels>: Label Studio's COCO export then names those of its labels that answers "
    "have 'default', and its YOLO export leaves polygons out"
)


def problems(controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> tuple[str, ...]:
    """Return the reasons why clicks of a project get no answer, or answers without their labels.

    Args:
        controls: the project's labeling config.
        preference: the kinds that may be answered with, the preferred ones first.
    """
    tags: list[Control | LabelsTag] = [*controls.labels, *controls.controls]
    messages = [_shared(tag) for tag in tags if len(tag.to_names) > 1][:SHOWN]
    for image in controls.images[:MOST_IMAGES]:
        on_image = config.on_image(controls, image.name)
        try:
            Outputs(on_image, preference)
        except ConfigError as error:
            messages.append(str(error))
        else:
            messages += _labels(on_image, preference, is_alone=not controls.labels)
        name = image.name[:LONGEST_NAME]
        if not any(control.is_smart for control in on_image.controls):
            messages.append(
                f"label_config: no control on image {name!r} is smart, so no click reaches this backend; add for "
                f'instance <KeyPoint name="point" toName="{name}" smart="true"/>'
            )
    return tuple(messages)


def export_hints(controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> tuple[str, ...]:
    """Return which answers of a project Label Studio's own exporter leaves out of COCO files, or writes without labels.

    Args:
        controls: the project's labeling config.
        preference: the kinds that may be answered with, the preferred ones first.
    """
    exports = {
        answer.tag: EXPORTS.get(answer.type, JSON_ONLY)
        for image in controls.images[:MOST_IMAGES]
        for answer in answering(config.on_image(controls, image.name), preference)[:1]
    }
    hints = [
        f"answers are drawn with <{tag}>, which Label Studio exports to {formats} only"
        for tag, formats in exports.items()
        if "COCO" not in formats
    ]
    if _COCO_AND_YOLO in exports.values() and any(control.type == "keypointlabels" for control in controls.controls):
        hints.append(_LABELS_LOST)
    return tuple(hints)


def _shared(tag: Control | LabelsTag) -> str:
    written = tag.tag if isinstance(tag, Control) else "Labels"
    return (
        f'label_config: expected one image in toName of <{written} name="{tag.name}">, got {_names(tag.to_names)}: the '
        "editor connects it to neither, so that a chosen label is lost; give each image a tag of its own"
    )


def _labels(on_image: LabelConfig, preference: Sequence[ShapeKind], is_alone: bool) -> list[str]:
    """Return the labels on one image that prompts have and answers cannot, and those of answers that prompts lack.

    Args:
        on_image: the config of that image, see `backend.labeling.config.on_image`.
        preference: the kinds that may be answered with.
        is_alone: whether no image of the config has separate ``<Labels>``.
    """
    image = on_image.images[0].name[:LONGEST_NAME]
    prompting = [control for control in on_image.controls if control.is_smart and control.kind not in PAINTED]
    prompts = list(_offers(prompting, on_image.labels))
    offers = list(_offers(answering(on_image, preference), on_image.labels))
    if any(tag.labels_vary for tag in (*prompts, *offers)):
        return []
    answer_names = {name for tag in offers for name in tag.loose_spellings}
    prompt_labels = dict.fromkeys(label for tag in prompts for label in tag.labels)
    answer_labels = dict.fromkeys(label for tag in offers for label in tag.labels)
    lost = [label for label in prompt_labels if loosely(label) not in answer_names]
    if lost:
        got = (
            f"none of the labels {_names(answer_labels)} of the answers"
            if answer_labels
            else "no labels on what answers"
        )
        return [
            f"label_config: on image {image!r} prompts are labelled {_names(lost)}, and {got} is one of these, so that "
            "masks come without a label; name the labels of prompts and answers alike"
        ]
    if len(answer_labels) > 1 and not prompt_labels and prompting:
        return [
            f"label_config: prompts on image {image!r} have no labels, so that masks come without one of "
            f'{_names(answer_labels)}; add <Labels name="label" toName="{image}"> with these labels'
        ]
    if not answer_labels and not prompt_labels and not is_alone:
        return [f'label_config: there are no labels for image {image!r}; add <Labels name="..." toName="{image}">']
    return []


def _offers(controls: Iterable[Control], shared: Sequence[LabelsTag]) -> Iterable[LabelsTag]:
    tags: dict[int, LabelsTag] = {}
    for control in controls:
        for tag in (control.own,) if control.own is not None else shared:
            tags.setdefault(id(tag), tag)
    return tags.values()


def _names(labels: Iterable[str]) -> str:
    listed = list(labels)
    shown = ", ".join(repr(label[:40]) for label in listed[:SHOWN])
    return shown + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
