"""A labeling config's XML, read for what concerns images: which tags show them, which draw on them, with which labels.

Names of tags and attributes count whatever their case, as in the editor. Two attributes steer this backend:
``smart="false"`` (Label Studio's own) says that what is drawn with a control is no prompt, and ``model_output="false"``
(ours) that the backend must not answer with it. Of several controls left, ``PREFERENCE`` decides.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from backend.controls import Control, Controls, ImageTag, LabelsTag, Output
from backend.errors import ConfigError, Reason
from backend.shapes import ShapeKind, kind_of

PREFERENCE = (
    ShapeKind.BRUSH,
    ShapeKind.BITMASK,
    ShapeKind.POLYGON,
    ShapeKind.VECTOR,
    ShapeKind.RECTANGLE,
    ShapeKind.ELLIPSE,
)
INDEX_FLAG = "{{idx}}"
EXAMPLE = '<BrushLabels name="brush" toName="{image}" smart="false"><Label value="Object"/></BrushLabels>'


@lru_cache(maxsize=64)
def parse(text: str) -> Controls:
    """Return the controls of a labeling config.

    Raises:
        ConfigError: there is no config, it is not XML, or it shows no image.
    """
    if not text.strip():
        raise ConfigError("label_config: expected XML, got nothing", Reason.NO_LABEL_CONFIG)
    try:
        root = fromstring(text)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ConfigError(f"label_config: expected XML, got something else: {error}") from error
    images: list[ImageTag] = []
    controls: list[Control] = []
    labels: list[LabelsTag] = []
    try:
        _collect(root, (), images, controls, labels)
    except RecursionError as error:
        raise ConfigError("label_config: expected tags a few levels deep, got hundreds") from error
    if not images:
        raise ConfigError(
            'label_config: expected an <Image name="image" value="$image"/>, got none', Reason.NO_IMAGE_TAG
        )
    return Controls(tuple(images), tuple(controls), tuple(labels))


def on_image(controls: Controls, to_name: str) -> Controls:
    """Return one image and what draws on it, with the index flags of repeaters filled in as in ``to_name``.

    An empty ``to_name`` means the only image, where there is only one.

    Raises:
        ConfigError: no image has that name.
    """
    for image in controls.images:
        if image.name == to_name or (not to_name and len(controls.images) == 1):
            return _acting_on(controls, image, {})
    for image in controls.images:
        indices = _indices(image, to_name)
        if indices is not None:
            return _acting_on(controls, image, indices)
    names = ", ".join(image.name for image in controls.images)
    raise ConfigError(f"label_config: expected an image named one of {names}, got {to_name!r}", Reason.NO_IMAGE_TAG)


def choose_output(
    controls: Controls, labels: Sequence[str] = (), preference: Sequence[ShapeKind] = PREFERENCE
) -> Output:
    """Return how an object with these labels is to be answered on the one image of ``controls`` (see ``on_image``).

    The first control in order of preference that offers the labels wins; names that differ only in case or in spaces
    around them count as second best. Labels that no control offers are dropped, never replaced; an object without
    labels takes the only label of its control, where there is only one.

    Raises:
        ConfigError: nothing on that image can hold an answer.
    """
    fitting = [control for control in controls.controls if control.is_output and control.kind in preference]
    fitting.sort(key=lambda control: preference.index(control.kind))
    if not fitting:
        name = controls.images[0].name
        raise ConfigError(
            f"label_config: expected a control on image {name!r} that can hold a mask, got none; add for instance "
            + EXAMPLE.format(image=name),
            Reason.NO_OUTPUT_CONTROL,
        )
    for is_exact in (True, False):
        for control in fitting:
            for holder in _label_holders(control, controls):
                found = tuple(dict.fromkeys(word for label in labels if (word := _offered(holder, label, is_exact))))
                if found:
                    return Output(control, found, holder.name if isinstance(holder, LabelsTag) else None)
    return _unlabelled(fitting[0], controls, has_labels=bool(labels))


def problems(controls: Controls, preference: Sequence[ShapeKind] = PREFERENCE) -> tuple[str, ...]:
    """Return what keeps this config from working with this backend, in words that say what to write."""
    found = []
    for image in controls.images:
        here = _acting_on(controls, image, {})
        try:
            choose_output(here, (), preference)
        except ConfigError as error:
            found.append(str(error))
        if not any(control.is_smart for control in here.controls):
            found.append(
                f"label_config: no control on image {image.name!r} is smart, so no click reaches this backend; add for "
                f'instance <KeyPointLabels name="point" toName="{image.name}" smart="true"><Label value="Object"/>'
                "</KeyPointLabels>"
            )
    return tuple(found)


def _collect(
    element: Element,
    repeats: tuple[tuple[str, str], ...],
    images: list[ImageTag],
    controls: list[Control],
    labels: list[LabelsTag],
) -> None:
    """Add the tags at and below ``element`` in document order."""
    attributes = {key.lower(): value for key, value in element.attrib.items()}
    name, tag = attributes.get("name", ""), element.tag
    to_names = tuple(word for part in attributes.get("toname", "").split(",") if (word := part.strip()))
    kind = kind_of(tag)
    if tag.lower() == "repeater":
        repeats = (*repeats, (attributes.get("on", ""), attributes.get("indexflag", INDEX_FLAG)))
    elif tag.lower() == "image":
        images.append(ImageTag(name, attributes.get("value", ""), attributes.get("valuelist", ""), repeats))
    elif name and to_names and kind is not None:
        controls.append(
            Control(
                name=name,
                tag=tag,
                kind=kind,
                to_names=to_names,
                labels=_labels(element) if tag.lower().endswith("labels") else (),
                is_smart=attributes.get("smart") != "false",
                is_output=attributes.get("model_output") != "false" and tag.lower() != "magicwand",
                labels_vary="$" in attributes.get("value", ""),
            )
        )
    elif name and to_names and tag.lower() == "labels":
        labels.append(LabelsTag(name, to_names, _labels(element), "$" in attributes.get("value", "")))
    for child in element:
        _collect(child, repeats, images, controls, labels)


def _labels(element: Element) -> tuple[str, ...]:
    """Return the labels below a control as results name them: by alias, else by value."""
    found = []
    for child in element.iter():
        if child.tag.lower() == "label":
            attributes = {key.lower(): value for key, value in child.attrib.items()}
            found.append(attributes.get("alias") or attributes.get("value") or "")
    return tuple(dict.fromkeys(label for label in found if label))


def _indices(image: ImageTag, to_name: str) -> dict[str, str] | None:
    """Return what the index flags in an image's name stand for when it reads ``to_name``, None when it cannot."""
    pattern = re.escape(image.name)
    flags = [flag for _, flag in image.repeats if flag]
    for number, flag in enumerate(flags):
        escaped = re.escape(flag)
        pattern = pattern.replace(escaped, f"(?P<i{number}>[0-9]+)", 1).replace(escaped, f"(?P=i{number})")
    found = re.fullmatch(pattern, to_name) if flags else None
    if found is None:
        return None
    return {flag: found[f"i{number}"] for number, flag in enumerate(flags) if f"i{number}" in found.groupdict()}


def _acting_on(controls: Controls, image: ImageTag, indices: dict[str, str]) -> Controls:
    def fill(text: str) -> str:
        for flag, index in indices.items():
            text = text.replace(flag, index)
        return text

    return Controls(
        images=(ImageTag(fill(image.name), fill(image.value), fill(image.value_list)),),
        controls=tuple(
            replace(control, name=fill(control.name), to_names=tuple(map(fill, control.to_names)))
            for control in controls.controls
            if image.name in control.to_names
        ),
        labels=tuple(
            replace(tag, name=fill(tag.name), to_names=tuple(map(fill, tag.to_names)))
            for tag in controls.labels
            if image.name in tag.to_names
        ),
    )


def _label_holders(control: Control, controls: Controls) -> Sequence[Control | LabelsTag]:
    return (control,) if control.has_labels else controls.labels


def _offered(holder: Control | LabelsTag, label: str, is_exact: bool) -> str | None:
    """Return ``label`` as the holder spells it, None where it does not offer it."""
    if label in holder.labels or holder.labels_vary:
        return label
    if is_exact:
        return None
    return next((own for own in holder.labels if own.strip().casefold() == label.strip().casefold()), None)


def _unlabelled(control: Control, controls: Controls, has_labels: bool) -> Output:
    if has_labels:
        return Output(control)
    holders = _label_holders(control, controls)
    choices = [(holder, label) for holder in holders for label in holder.labels]
    if len(choices) != 1 or any(holder.labels_vary for holder in holders):
        return Output(control)
    [(holder, label)] = choices
    return Output(control, (label,), holder.name if isinstance(holder, LabelsTag) else None)
