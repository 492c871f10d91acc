"""A labeling config, read for what concerns images: which tags show them, which draw on them, with which labels.

It is read as the editor reads it, see `backend.labeling.config_xml`; what an answer is drawn with,
`backend.labeling.output_choice` says.
"""

import sys
import threading
from dataclasses import dataclass, field, replace

from cachetools import LRUCache, cached

from backend.errors import ConfigError, Reason
from backend.labeling import config_xml
from backend.labeling.config_types import Control, ImageTag, LabelConfig, LabelsTag
from backend.labeling.config_xml import Tag
from backend.shapes import kind_of

INDEX_FLAG = "{{idx}}"

MOST_TAGS = 1000  # images, and tags that draw on them or label what is drawn
LONGEST_NAME = 1000  # characters of a name or label: answers repeat them
LONGEST_FILLED = 10_000  # characters of a value in which the index flags of repeaters are filled in
LONGEST_INDEX = 9  # digits
CACHE_BYTES = 32_000_000
LABEL_BYTES = 400  # of a label or name that is kept, with what it is found by

# The tags that the editor counts when a control does not say what it is for; Text and HyperText are not among them.
OBJECT_TAGS = frozenset(
    ("audio", "image", "list", "pairwise", "paragraphs", "pdf", "ranker", "table", "timeseries", "video")
)


@dataclass
class _Found:
    """What a config holds, as far as it has been read; controls that do not say what they are for wait in ``loose``."""

    images: list[ImageTag] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    labels: list[LabelsTag] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Kept:
    """A config in the cache, and how much memory it takes."""

    controls: LabelConfig
    bytes: int


def parse(text: str) -> LabelConfig:
    """Return the controls of a labeling config.

    Raises:
        ConfigError: there is no config, it is not XML, it is larger than any that people write, or shows no image.
    """
    return _kept(text).controls


@cached(LRUCache[str, _Kept](CACHE_BYTES, getsizeof=lambda kept: kept.bytes), lock=threading.Lock())
def _kept(text: str) -> _Kept:
    if not text.strip():
        raise ConfigError("label_config: expected XML, got nothing", Reason.NO_LABEL_CONFIG)
    found = _Found()
    _collect(config_xml.read(text), (), found)
    if not found.images:
        raise ConfigError(
            'label_config: expected an <Image name="image" value="$image"/>, got none', Reason.NO_IMAGE_TAG
        )
    controls = _connected(found)
    tags: list[Control | LabelsTag] = [*controls.controls, *controls.labels]
    named = len(controls.images) + sum(len(one.labels) + len(one.to_names) + 1 for one in tags)
    return _Kept(controls, 2 * sys.getsizeof(text) + LABEL_BYTES * named)


def on_image(controls: LabelConfig, to_name: str) -> LabelConfig:
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
    names = ", ".join(image.name[:40] for image in controls.images[:10])
    raise ConfigError(
        f"label_config: expected an image named one of {names}, got {to_name[:40]!r}", Reason.NO_IMAGE_TAG
    )


def _collect(tag: Tag, repeats: tuple[tuple[str, str], ...], found: _Found) -> None:
    """Add the tags at and below ``tag`` in document order."""
    attributes, kind = tag.attributes, kind_of(tag.name)
    name = attributes.get("name", "")
    to_names = tuple(dict.fromkeys(word for part in attributes.get("toname", "").split(",") if (word := part.strip())))
    if name and tag.kind in OBJECT_TAGS:
        found.objects += [name] * (2 if repeats else 1)  # what is repeated is several
    if tag.kind == "repeater":
        repeats = (*repeats, (attributes.get("on", ""), attributes.get("indexflag", INDEX_FLAG)))
    elif tag.kind == "image":
        found.images.append(ImageTag(name, attributes.get("value", ""), attributes.get("valuelist", ""), repeats))
    elif name and (kind is not None or tag.kind == "labels"):
        own = _labels_tag(tag, name, to_names) if tag.kind.endswith("labels") else None
        if kind is None:
            found.labels += [own] if own is not None else []
        else:
            found.controls.append(
                Control(
                    name=name,
                    tag=tag.name,
                    kind=kind,
                    to_names=to_names,
                    own=own,
                    smart={"true": True, "false": False}.get(attributes.get("smart", "")),
                    is_output=attributes.get("model_output") != "false" and tag.kind != "magicwand",
                )
            )
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"label_config: expected names of at most {LONGEST_NAME} characters, got {name[:40]!r}...")
    if len(found.images) + len(found.controls) + len(found.labels) > MOST_TAGS:
        raise ConfigError(f"label_config: expected at most {MOST_TAGS} images and controls on them, got more")
    for child in tag.children:
        _collect(child, repeats, found)


def _connected(found: _Found) -> LabelConfig:
    """Return what was found; where there is only one object tag, it is what controls without ``toName`` are for."""
    only = tuple(found.objects) if len(found.objects) == 1 else ()
    return LabelConfig(
        tuple(found.images),
        tuple(one if one.to_names else replace(one, to_names=only) for one in found.controls if one.to_names or only),
        tuple(one if one.to_names else replace(one, to_names=only) for one in found.labels if one.to_names or only),
    )


def _labels_tag(tag: Tag, name: str, to_names: tuple[str, ...]) -> LabelsTag:
    """Return the labels below a control."""
    labels: dict[str, None] = {}
    values: dict[str, str] = {}
    waiting = tag.children[::-1]
    while waiting:
        child = waiting.pop()
        waiting += child.children[::-1]
        if child.kind != "label":
            continue
        value, alias = child.attributes.get("value", ""), child.attributes.get("alias", "")
        if max(len(value), len(alias)) > LONGEST_NAME:
            raise ConfigError(f"label_config: expected labels of at most {LONGEST_NAME} characters, got longer ones")
        if alias or value:
            labels[alias or value] = None
        if alias and value:
            values.setdefault(value, alias)
    return LabelsTag(name, to_names, tuple(labels), tuple(values.items()), "$" in tag.attributes.get("value", ""))


def _indices(image: ImageTag, to_name: str) -> dict[str, str] | None:
    """Return what the index flags in an image's name stand for when it reads ``to_name``, None when it cannot.

    Each flag takes all the digits that lie there, but for those that the name itself goes on with.
    """
    flags = [flag for _, flag in image.repeats if flag and flag in image.name]
    if not flags or len(to_name) > LONGEST_NAME:
        return None
    indices: dict[str, str] = {}
    name = image.name
    for flag in sorted(flags, key=image.name.find):
        start, found, rest = name.partition(flag)
        if not found:  # it lies within another flag
            continue
        run = _digits(to_name[len(start) :])
        index = run[: len(run) - len(_digits(rest)) - sum(rest.startswith(other) for other in flags)]
        if not 0 < len(index) <= LONGEST_INDEX:
            return None
        indices[flag] = index
        name = name.replace(flag, index)
    return indices if name == to_name else None


def _digits(text: str) -> str:
    """Return the digits that a text begins with."""
    end = next((place for place, letter in enumerate(text) if letter not in "0123456789"), len(text))
    return text[:end]


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
        controls=tuple(replace(one, name=fill(one.name), to_names=tuple(map(fill, one.to_names))) for one in on_it),
        labels=tuple(replace(one, name=fill(one.name), to_names=tuple(map(fill, one.to_names))) for one in labels),
    )
