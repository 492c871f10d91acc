"""Parses a labeling config: the tags that show images, the controls that draw on them, and their labels.

The XML is read as the editor reads it, see `backend.labeling.config_xml`; `backend.labeling.output_choice` chooses the
control of an answer.
"""

import re
import sys
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cachetools import LRUCache, cached

from backend.errors import ConfigError, Reason
from backend.labeling import config_xml
from backend.labeling.config_types import Control, ImageTag, LabelConfig, LabelsTag
from backend.labeling.config_xml import Tag
from backend.shapes import FEWEST_CORNERS, Detail, kind_of

INDEX_FLAG = "{{idx}}"

MOST_TAGS = 1000  # images, controls and Labels tags
LONGEST_NAME = 1000  # characters of a name or label: answers repeat them
LONGEST_FILLED = 10_000  # characters of a value in which the index flags of repeaters are filled in
LONGEST_INDEX = 9  # digits
CACHE_BYTES = 32_000_000
LABEL_BYTES = 400  # memory of a cached label or name, with its place in the indexes

DETAIL_ATTRIBUTES = {"tolerance": "model_tolerance", "corners": "model_corners", "min_area": "model_min_area"}
"""By the fields of `backend.shapes.Detail`, the attributes of a control that set them for its answers."""

_DIGITS = re.compile(r"\A[0-9]*")
_COUNT, _NUMBER = re.compile(r"[0-9]{1,9}"), re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")

# The object tags that the editor counts where a control has no toName; Text and HyperText are not among them.
OBJECT_TAGS = frozenset(
    ("audio", "image", "list", "pairwise", "paragraphs", "pdf", "ranker", "table", "timeseries", "video")
)


@dataclass
class _Collected:
    """The tags of a config collected so far; ``objects`` are the names of all object tags."""

    images: list[ImageTag] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    labels: list[LabelsTag] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)


class _CachedConfig(NamedTuple):
    """A parsed config in the cache, and its memory in bytes."""

    controls: LabelConfig
    bytes: int


def parse(text: str) -> LabelConfig:
    """Return the images and controls of a labeling config; parsed configs are cached.

    >>> parsed = parse('<View><Image name="image" value="$image"/><Brush name="brush" toName="image"/></View>')
    >>> parsed.images[0].value, parsed.controls[0].tag
    ('$image', 'Brush')
    >>> parse("<View/>")
    Traceback (most recent call last):
        ...
    backend.errors.ConfigError: label_config: expected an <Image name="image" value="$image"/>, got none

    Raises:
        ConfigError: the config is empty, is not XML, is larger than any that people write, or shows no image.
    """
    return _parse(text).controls


PARSED: LRUCache[Hashable, _CachedConfig] = LRUCache(CACHE_BYTES, getsizeof=lambda entry: entry.bytes)
"""The configs that are kept."""


@cached(PARSED, lock=threading.Lock())
def _parse(text: str) -> _CachedConfig:
    if not text.strip():
        raise ConfigError("label_config: expected XML, got nothing", Reason.NO_LABEL_CONFIG)
    collected = _Collected()
    _collect(config_xml.read(text), (), collected)
    if not collected.images:
        expected = 'label_config: expected an <Image name="image" value="$image"/>, got none'
        raise ConfigError(expected, Reason.NO_IMAGE_TAG)
    only = tuple(collected.objects) if len(collected.objects) == 1 else ()  # what controls without toName belong to
    controls = LabelConfig(
        tuple(collected.images),
        tuple(replace(tag, to_names=tag.to_names or only) for tag in collected.controls if tag.to_names or only),
        tuple(replace(tag, to_names=tag.to_names or only) for tag in collected.labels if tag.to_names or only),
    )
    tags: list[Control | LabelsTag] = [*controls.controls, *controls.labels]
    named = len(controls.images) + sum(len(tag.labels) + len(tag.to_names) + 1 for tag in tags)
    return _CachedConfig(controls, 2 * sys.getsizeof(text) + LABEL_BYTES * named)


def on_image(controls: LabelConfig, to_name: str) -> LabelConfig:
    """Return one image and its controls, with the index flags of repeaters filled in as in ``to_name``.

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
    names = ", ".join(image.name[:40] for image in controls.images[:10])
    text = f"label_config: expected an image named one of {names}, got {to_name[:40]!r}"
    raise ConfigError(text, Reason.NO_IMAGE_TAG)


def _collect(tag: Tag, repeats: tuple[tuple[str, str], ...], collected: _Collected) -> None:
    attributes, kind = tag.attributes, kind_of(tag.name)
    name = attributes.get("name", "")
    to_names = tuple(dict.fromkeys(word for part in attributes.get("toname", "").split(",") if (word := part.strip())))
    if name and tag.kind in OBJECT_TAGS:
        collected.objects += [name] * (2 if repeats else 1)  # a repeated tag counts as several
    if tag.kind == "repeater":
        repeats = (*repeats, (attributes.get("on", ""), attributes.get("indexflag", INDEX_FLAG)))
    elif tag.kind == "image":
        collected.images.append(ImageTag(name, attributes.get("value", ""), attributes.get("valuelist", ""), repeats))
    elif name and (kind is not None or tag.kind == "labels"):
        own = _labels_tag(tag, name, to_names) if tag.kind.endswith("labels") else None
        if kind is None:
            collected.labels += [own] if own is not None else []
        else:
            collected.controls.append(
                Control(
                    name=name,
                    tag=tag.name,
                    kind=kind,
                    to_names=to_names,
                    own=own,
                    smart={"true": True, "false": False}.get(attributes.get("smart", "")),
                    is_output=attributes.get("model_output") != "false" and tag.kind != "magicwand",
                    detail=_detail(tag),
                )
            )
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"label_config: expected names of at most {LONGEST_NAME} characters, got {name[:40]!r}...")
    if len(collected.images) + len(collected.controls) + len(collected.labels) > MOST_TAGS:
        raise ConfigError(f"label_config: expected at most {MOST_TAGS} images and controls on them, got more")
    for child in tag.children:
        _collect(child, repeats, collected)


def _detail(tag: Tag) -> Detail:
    """Return the detail that a control asks for.

    Raises:
        ConfigError: one of the values is no such number.
    """
    values: dict[str, float] = {}
    for name, attribute in DETAIL_ATTRIBUTES.items():
        text = tag.attributes.get(attribute, "").strip()
        if not text:
            continue
        is_count = name == "corners"
        least = FEWEST_CORNERS if is_count else 0
        if not (_COUNT if is_count else _NUMBER).fullmatch(text) or float(text) < least:
            expected = f"a {'whole ' if is_count else ''}number of at least {least}"
            raise ConfigError(f"label_config: <{tag.name}> {attribute}: expected {expected}, got {text[:40]!r}")
        values[name] = int(text) if is_count else float(text)
    return Detail(**values)  # type: ignore[arg-type]  # corners are whole


def _labels_tag(tag: Tag, name: str, to_names: tuple[str, ...]) -> LabelsTag:
    labels: dict[str, None] = {}
    values: dict[str, str] = {}
    prompts: dict[str, str] = {}
    waiting = tag.children[::-1]
    while waiting:
        child = waiting.pop()
        waiting += child.children[::-1]
        if child.kind != "label":
            continue
        value, alias, prompt = (child.attributes.get(name, "") for name in ("value", "alias", "prompt"))
        if max(len(value), len(alias), len(prompt)) > LONGEST_NAME:
            raise ConfigError(f"label_config: expected labels of at most {LONGEST_NAME} characters, got longer ones")
        if alias or value:
            labels[alias or value] = None
        if alias and value:
            values.setdefault(value, alias)
        if prompt:
            prompts.setdefault(alias or value, prompt)
    return LabelsTag(
        name,
        to_names,
        tuple(labels),
        tuple(values.items()),
        "$" in tag.attributes.get("value", ""),
        tuple(prompts.items()),
    )


def _indices(image: ImageTag, to_name: str) -> dict[str, str] | None:
    """Return the values of the index flags with which an image's name becomes ``to_name``; None if there are none.

    Each flag takes all the digits at its position, except those with which the name itself continues.
    """
    flags = [flag for _, flag in image.repeats if flag and flag in image.name]
    if not flags or len(to_name) > LONGEST_NAME:
        return None
    indices: dict[str, str] = {}
    name = image.name
    for flag in sorted(flags, key=image.name.find):
        start, matched, rest = name.partition(flag)
        if not matched:  # this flag is part of another one
            continue
        [run], [own] = _DIGITS.findall(to_name[len(start) :]), _DIGITS.findall(rest)
        index = run[: len(run) - len(own) - sum(rest.startswith(other) for other in flags)]
        if not 0 < len(index) <= LONGEST_INDEX:
            return None
        indices[flag] = index
        name = name.replace(flag, index)
    return indices if name == to_name else None


def _acting_on(controls: LabelConfig, image: ImageTag, indices: dict[str, str]) -> LabelConfig:
    on_it = controls.controls_by_image.get(image.name, ())
    labels = controls.labels_by_image.get(image.name, ())
    if not indices:
        return LabelConfig((ImageTag(image.name, image.value, image.value_list),), on_it, labels)

    def fill(text: str) -> str:
        for flag, index in indices.items():
            text = text.replace(flag, index)
            if len(text) > LONGEST_FILLED:
                raise ConfigError(f"label_config: expected {flag[:40]!r} to fill in a short text, got a very long one")
        return text

    return LabelConfig(
        images=(ImageTag(fill(image.name), fill(image.value), fill(image.value_list)),),
        controls=tuple(replace(tag, name=fill(tag.name), to_names=tuple(map(fill, tag.to_names))) for tag in on_it),
        labels=tuple(replace(tag, name=fill(tag.name), to_names=tuple(map(fill, tag.to_names))) for tag in labels),
    )
