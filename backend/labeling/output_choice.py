"""Chooses the control and the labels that an answer is drawn with.

Two attributes of a control matter here: with ``smart="false"`` (Label Studio's own), its regions are no prompts; with
``model_output="false"`` (ours), the backend must not answer with it. A control with ``smart="true"`` is a prompt tool,
so no answer is drawn with it, unless it paints: painting tools call no model. Of several usable controls, the kind that
comes first in ``backend.shapes.OUTPUT_KINDS`` wins.
"""

from collections.abc import Sequence

from backend.errors import ConfigError, Reason
from backend.labeling.config_types import OUTLINES, Control, LabelConfig, LabelsTag, OutputTag, loosely
from backend.shapes import OUTPUT_KINDS, ShapeKind

EXAMPLE = '<BrushLabels name="brush" toName="{image}" smart="false"><Label value="Object"/></BrushLabels>'


def answering(controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> list[Control]:
    """Return the controls on one image that an answer may be drawn with, the preferred ones first.

    A box or ellipse without ``smart="false"`` is a prompt tool in the editor, so it is used only where no preferred
    control can hold a mask.
    """
    usable = [
        control
        for control in controls.controls
        if control.is_output and not control.is_prompt and control.kind in preference
    ]
    usable.sort(key=lambda control: preference.index(control.kind))
    chosen: list[Control] = []
    has_mask = False
    for control in usable:
        is_mask = control.kind not in OUTLINES or not control.is_smart
        if is_mask or not has_mask:
            chosen.append(control)
        has_mask = has_mask or is_mask
    return chosen


class Outputs:
    """Chooses the control and labels of objects on one image.

    >>> from backend.labeling import config
    >>> image, brush = '<Image name="image" value="$image"/>', '<BrushLabels name="brush" toName="image">'
    >>> controls = config.parse(f'<View>{image}{brush}<Label value="Car"/><Label value="Dog"/></BrushLabels></View>')
    >>> output = Outputs(controls).choose(["dog"])
    >>> output.control.name, output.labels
    ('brush', ('Dog',))
    """

    def __init__(self, controls: LabelConfig, preference: Sequence[ShapeKind] = OUTPUT_KINDS) -> None:
        """Index the labels of all controls of one image; `ConfigError` if nothing on it can hold an answer."""
        fitting = answering(controls, preference)
        if not fitting:
            raise _no_output(controls)
        self._first = fitting[0]
        self._offers: list[tuple[Control, LabelsTag]] = []
        has_plain = False
        for control in fitting:
            if control.own is not None:
                self._offers.append((control, control.own))
            elif not has_plain:  # controls without labels of their own share the <Labels>, so the first one wins
                has_plain = True
                self._offers += [(control, tag) for tag in controls.labels]
        self._exact: dict[str, int] = {}  # by name of each label, the index of the first offer of it
        self._loose: dict[str, int] = {}
        for index, (_, tag) in enumerate(self._offers):
            for index_by_name, names in ((self._exact, tag.spellings), (self._loose, tag.loose_spellings)):
                for name in names:
                    index_by_name.setdefault(name, index)
        self._any = next((index for index, (_, tag) in enumerate(self._offers) if tag.labels_vary), None)

    def choose(self, labels: Sequence[str] = ()) -> OutputTag:
        """Return the control and labels of an answer for an object with these labels.

        The first control in order of preference that offers one of the labels wins; names that differ only in case or
        surrounding spaces match second. Labels that no control offers are dropped, never replaced; an object without
        labels gets the label of its control, where that has only one.
        """
        for index_by_name, spell in ((self._exact, str), (self._loose, loosely)):
            names = [spell(label) for label in labels]
            matches = [self._any] if self._any is not None and labels else []
            matches += [index_by_name[name] for name in names if name in index_by_name]
            if matches:
                control, tag = self._offers[min(matches)]
                spellings = tag.spellings if spell is str else tag.loose_spellings
                chosen = (
                    spellings.get(name) or (label if tag.labels_vary else "")
                    for name, label in zip(names, labels, strict=True)
                )
                return self._output(control, tag, tuple(dict.fromkeys(filter(None, chosen))))
        offers = [tag for control, tag in self._offers if control is self._first]
        choices = [(tag, label) for tag in offers for label in tag.labels[:2]]
        if labels or len(choices) != 1 or any(tag.labels_vary for tag in offers):
            return OutputTag(self._first)
        [(tag, label)] = choices
        return self._output(self._first, tag, (label,))

    def _output(self, control: Control, tag: LabelsTag, labels: tuple[str, ...]) -> OutputTag:
        return OutputTag(control, labels, None if control.has_labels else tag.name)


def _no_output(controls: LabelConfig) -> ConfigError:
    name = controls.images[0].name[:100]
    smart = next(
        (
            control
            for control in controls.controls
            if control.is_prompt and control.is_output and control.kind in OUTPUT_KINDS
        ),
        None,
    )
    why = f', and <{smart.tag} name="{smart.name}"> says smart="true", so that it is a prompt' if smart else ""
    return ConfigError(
        f"label_config: expected a control on image {name!r} that can hold a mask, got none{why}; add for instance "
        + EXAMPLE.format(image=name),
        Reason.NO_OUTPUT_CONTROL,
    )
