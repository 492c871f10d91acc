"""Which of a labeling config's controls an answer is drawn with, and with which labels.

Two attributes steer this: ``smart="false"`` (Label Studio's own) says that what is drawn with a control is no prompt,
and ``model_output="false"`` (ours) that the backend must not answer with it. A control with ``smart="true"`` is there
to prompt with, so no answer is drawn with it, unless it paints: such tools ask no model. Of several controls left,
``backend.shapes.OUTPUT_KINDS`` decides.
"""

from collections.abc import Callable, Sequence

from backend.errors import ConfigError, Reason
from backend.labeling.config_types import OUTLINES, Control, LabelConfig, LabelsTag, OutputTag
from backend.shapes import OUTPUT_KINDS, ShapeKind

EXAMPLE = '<BrushLabels name="brush" toName="{image}" smart="false"><Label value="Object"/></BrushLabels>'


def answering(controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> list[Control]:
    """Return the controls on one image that an answer may be drawn with, the preferred ones first.

    A box or ellipse that does not say ``smart="false"`` is a tool to prompt with in the editor, so one counts only
    where nothing that is preferred to it holds a mask.
    """
    usable = [one for one in controls.controls if one.is_output and not one.is_prompt and one.kind in preference]
    usable.sort(key=lambda control: preference.index(control.kind))
    found: list[Control] = []
    has_mask = False
    for control in usable:
        is_mask = control.kind not in OUTLINES or not control.is_smart
        if is_mask or not has_mask:
            found.append(control)
        has_mask = has_mask or is_mask
    return found


class Outputs:
    """Chooses what objects on one image are answered with."""

    def __init__(self, controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> None:
        """Look up the labels of all controls, once for all objects.

        Args:
            controls: those of one image, see ``on_image``.
            preference: the kinds that may be answered with, the preferred ones first.

        Raises:
            ConfigError: nothing on that image can hold an answer.
        """
        fitting = answering(controls, preference)
        if not fitting:
            raise _no_output(controls)
        self._first = fitting[0]
        self._offers: list[tuple[Control, LabelsTag]] = []
        has_plain = False
        for control in fitting:
            if control.own is not None:
                self._offers.append((control, control.own))
            elif not has_plain:  # those without labels share the separate ones, so the first of them is always chosen
                has_plain = True
                self._offers += [(control, tag) for tag in controls.labels]
        self._exact = self._places(lambda tag: tag.spellings)
        self._loose = self._places(lambda tag: tag.loose_spellings)
        self._any = next((place for place, (_, tag) in enumerate(self._offers) if tag.labels_vary), None)

    def choose(self, labels: Sequence[str] = ()) -> OutputTag:
        """Return how an object with these labels is to be answered.

        The first control in order of preference that offers one of the labels wins; names that differ only in case or
        in spaces around them count as second best. Labels that no control offers are dropped, never replaced; an
        object without labels takes the only label of its control, where there is only one.
        """
        for places, is_exact in ((self._exact, True), (self._loose, False)):
            found = [self._any] if self._any is not None and labels else []
            found += [places[name] for label in labels if (name := _name(label, is_exact)) in places]
            if found:
                control, tag = self._offers[min(found)]
                chosen = tuple(dict.fromkeys(word for label in labels if (word := _offered(tag, label, is_exact))))
                return self._output(control, tag, chosen)
        return self._unlabelled(has_labels=bool(labels))

    def _places(self, names: Callable[[LabelsTag], dict[str, str]]) -> dict[str, int]:
        """Return by name the first offer of each label."""
        found: dict[str, int] = {}
        for place, (_, tag) in enumerate(self._offers):
            for name in names(tag):
                found.setdefault(name, place)
        return found

    def _unlabelled(self, has_labels: bool) -> OutputTag:
        offers = [tag for control, tag in self._offers if control is self._first]
        choices = [(tag, label) for tag in offers for label in tag.labels[:2]]
        if has_labels or len(choices) != 1 or any(tag.labels_vary for tag in offers):
            return OutputTag(self._first)
        [(tag, label)] = choices
        return self._output(self._first, tag, (label,))

    def _output(self, control: Control, tag: LabelsTag, labels: tuple[str, ...]) -> OutputTag:
        return OutputTag(control, labels, None if control.has_labels else tag.name)


def choose_output(
    controls: LabelConfig, labels: Sequence[str] = (), preference: Sequence[ShapeKind] = OUTPUT_KINDS
) -> OutputTag:
    """Return how one object is to be answered on the one image of ``controls``, see ``Outputs``.

    Raises:
        ConfigError: nothing on that image can hold an answer.
    """
    return Outputs(controls, preference).choose(labels)


def _no_output(controls: LabelConfig) -> ConfigError:
    name = controls.images[0].name[:100]
    smart = next(
        (one for one in controls.controls if one.is_prompt and one.is_output and one.kind in OUTPUT_KINDS), None
    )
    why = f', and <{smart.tag} name="{smart.name}"> says smart="true", so that it is a prompt' if smart else ""
    return ConfigError(
        f"label_config: expected a control on image {name!r} that can hold a mask, got none{why}; add for instance "
        + EXAMPLE.format(image=name),
        Reason.NO_OUTPUT_CONTROL,
    )


def _name(label: str, is_exact: bool) -> str:
    return label if is_exact else label.strip().casefold()


def _offered(tag: LabelsTag, label: str, is_exact: bool) -> str | None:
    """Return ``label`` as the tag spells it, None where it does not offer it."""
    names = tag.spellings if is_exact else tag.loose_spellings
    return names.get(_name(label, is_exact)) or (label if tag.labels_vary else None)
