"""PaddleX's way to use a model, ``create_model(name).predict(image, prompts=...)``, with one encode per picture."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np
import numpy.typing as npt

from model.automatic import AutomaticMaskGenerator, AutomaticSettings, settings_for
from model.automatic.generator import Decodes as DecodesPoints
from model.config import SamConfig
from model.detection.directory import is_detector
from model.errors import CapabilityError
from model.paddlex import inputs
from model.paddlex.detection import DetectionModel, create_detector
from model.paddlex.inputs import Input, InputError, Picture, Source
from model.paddlex.prompts import (
    BOX_PROMPT,
    POINT_PROMPT,
    PromptError,
    PromptsLike,
    Request,
    as_given,
    check_inside,
    parse,
)
from model.paddlex.result import SamResult
from model.types import Embedding, Masks, Prompt
from model.weights import Checkpoint, WeightsError, model_names, read
from model.weights.catalogue import DEMO, DEMO_WEIGHTS, DETECTORS

logger = logging.getLogger(__name__)


class Encodes(Protocol):
    """What `SamModel` needs of `model.encoder.Encoder`."""

    def encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """Return what the network sees in (H, W, 3) uint8 RGB."""


class Decodes(DecodesPoints, Protocol):
    """What `SamModel` needs of `model.decoder.Decoder`."""

    @property
    def config(self) -> SamConfig:
        """The network's configuration."""

    def decode(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Masks:
        """Answer prompts about one image."""


class SamModel:
    """A loaded model with PaddleX's `predict`. Any number of threads may use one at once.

    Attributes:
        model_name: what it was created as.
        model_version: name and digest of the weights; embeddings of another version are refused.
        capabilities: what the weights can do, of ``points``, ``negative_points``, ``boxes``, ``mask_input``, ``score``.
    """

    def __init__(self, model_name: str, encoder: Encodes, decoder: Decodes) -> None:
        self.model_name = model_name
        self._encoder, self._decoder = encoder, decoder
        self.model_version, self.capabilities = decoder.model_version, decoder.capabilities

    def predict(
        self,
        input: Input | Sequence[Input],  # noqa: A002 - PaddleX's name
        batch_size: int = 1,
        prompts: PromptsLike | None = None,
    ) -> Iterator[SamResult]:
        """Segment what the prompts mark in each picture.

        Prompts and inputs are checked at the call; pictures are read and encoded one by one, as results are consumed.
        Each is encoded once, however many prompts there are, and an `Embedding` not at all.

        Args:
            input: array (BGR, as OpenCV reads), path, http(s) address, directory, `Embedding` from `encode`, a dict
                ``{"img": ...}`` of one of these, or a list of these. Of a directory, pictures that cannot be read or
                that a prompt lies outside of are named in the log and left out; the others are done.
            batch_size: as PaddleX takes it. Pictures are encoded one at a time whatever it says; results are the same.
            prompts: ``{"box_prompt": [[x1, y1, x2, y2], ...]}``, ``{"point_prompt": [[x, y], ...]}``, both (see
                `model.paddlex.prompts`), or `Prompt` values; in original pixels, the same for every picture. Not
                optional, although PaddleX's documentation gives None as the default.

        Yields:
            One result per picture, in order.

        Raises:
            PromptError: there are no prompts, they cannot be understood, or (when its turn comes) one lies outside of
                a picture.
            InputError: an input is not there or of the wrong kind, or (when its turn comes) cannot be read.
            CapabilityError: these weights cannot take such prompts.
            ValueError: ``batch_size`` is not a positive whole number, or an embedding is of other weights.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}")
        if prompts is None or (isinstance(prompts, Mapping) and not prompts):
            raise PromptError(f"prompts: expected a dict, {self._examples()}, got {prompts}")
        requests = parse(prompts)
        self.check(requests)
        return self._each(inputs.find(input), requests, prompts)

    def encode(self, image: Input) -> Embedding:
        """Return the embedding of one picture, to be given to `predict` in its place any number of times.

        Args:
            image: array (BGR, as OpenCV reads), path or http(s) address.

        Raises:
            InputError: it is not one picture, or cannot be read.
        """
        sources = inputs.find(image)
        if len(sources) != 1:
            raise InputError(f"encode: expected one picture, got {len(sources)}")
        return self._seen(sources[0].open())

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse prompts that these weights cannot take, before anything is read or encoded.

        Raises:
            CapabilityError: the first such prompt.
        """
        for request in requests:
            for capability in sorted(request.prompt.needs - self.capabilities):
                able = ", ".join(sorted(self.capabilities - {"score"})).replace("_", " ")
                raise CapabilityError(f"{self.model_version}: expected {able}, got {capability.replace('_', ' ')}")

    def segment(self, picture: Picture, requests: Sequence[Request], prompts: PromptsLike | None = None) -> SamResult:
        """Segment one picture; `predict` is this for several.

        Args:
            picture: as `model.paddlex.inputs` reads it.
            requests: the objects, as `model.paddlex.prompts` returns it.
            prompts: how the caller put it, for the result.

        Raises:
            PromptError: a prompt lies outside of the picture; the message names it.
            ValueError: the embedding is of other weights.
        """
        try:
            check_inside(requests, picture.original_size)
        except PromptError as error:
            raise PromptError(f"{picture.path}: {error}" if picture.path else str(error)) from error
        outputs = self.decode(picture, [request.prompt for request in requests])
        return SamResult(picture, as_given(prompts, requests), requests, outputs)

    def decode(self, picture: Picture, prompts: Sequence[Prompt]) -> Masks:
        """Return the masks of prompts about a picture: one encode, one batch.

        Raises:
            CapabilityError: the weights cannot take a prompt.
            ValueError: the embedding is of other weights.
        """
        return self._decoder.decode(self._seen(picture), prompts)

    def generator(self, settings: AutomaticSettings | None = None) -> AutomaticMaskGenerator:
        """Return what finds everything in a picture with these weights.

        Args:
            settings: what the masks shall be like; None for segment-anything's defaults, with thresholds that suit
                this network.

        Raises:
            CapabilityError: these weights take no points.
        """
        return AutomaticMaskGenerator(self._decoder, self._encoder, settings or settings_for(self.network))

    @property
    def network(self) -> str:
        """The network's name in its configuration, such as ``vit_b`` or ``demo``."""
        return self._decoder.config.name

    def _each(
        self, sources: Sequence[Source], requests: Sequence[Request], prompts: PromptsLike
    ) -> Iterator[SamResult]:
        left_out: list[InputError | PromptError] = []
        for source in sources:
            try:
                result = self.segment(source.open(), requests, prompts)
            except (InputError, PromptError) as error:
                if not source.is_listed:
                    raise
                logger.warning("%s (left out)", error)
                left_out.append(error)
            else:
                yield result
        if left_out and len(left_out) == len(sources):
            raise left_out[0]

    def _examples(self) -> str:
        """Return the prompts that these weights take, each as an example."""
        examples = {"boxes": f"{{'{BOX_PROMPT}': [[x1, y1, x2, y2]]}}", "points": f"{{'{POINT_PROMPT}': [[x, y]]}}"}
        return " or ".join(text for capability, text in examples.items() if capability in self.capabilities)

    def _seen(self, picture: Picture) -> Embedding:
        content = picture.content
        return content if isinstance(content, Embedding) else self._encoder.encode(content)


@overload
def create_model(  # type: ignore[overload-overlap]  # the two names are strings too
    model_name: Literal["GroundingDINO-T", "YOLO-Worldv2-L"],
    model_dir: str | Path | None = None,
    *,
    device: str | None = None,
    weights_dir: str | Path | None = None,
) -> DetectionModel: ...


@overload
def create_model(
    model_name: str,
    model_dir: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str = "float32",
    weights_dir: str | Path | None = None,
    use_hpip: bool = False,
    hpi_config: Mapping[str, object] | None = None,
) -> SamModel: ...


def create_model(
    model_name: str,
    model_dir: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str = "float32",
    weights_dir: str | Path | None = None,
    use_hpip: bool = False,
    hpi_config: Mapping[str, object] | None = None,
) -> SamModel | DetectionModel:
    """Load a model.

    Args:
        model_name: a name of `model.weights.catalogue`, such as ``mobile_sam``, ``SAM-H_box`` or ``demo``, which ships
            with the project and is for trying things out. The names of detectors, such as ``GroundingDINO-T``, and the
            directories of detectors give a `DetectionModel`, as `model.paddlex.detection.create_detector` does.
        model_dir: file or directory of that model's weights in any format that `model.weights.read` knows; networks
            that have no name here are loaded by `load`. None: the weights of that name in ``weights_dir``, downloaded
            to it if they are not there.
        device: ``auto``, ``cpu`` or ``gpu:N``; None is auto.
        dtype: what the encoder computes in: ``float32``, or on a GPU ``float16`` or ``bfloat16``.
        weights_dir: where downloaded weights are kept; None for the user's cache folder.
        use_hpip: PaddleX's high-performance plugin; taken, and changes nothing: there is one way to compute here.
        hpi_config: its configuration; likewise.

    Raises:
        WeightsError: unknown name, weights that are not there, that are not those of a SAM network, or those of
            another model ("Model name mismatch").
        DeviceError: device or dtype are not to be had here.
    """
    if model_name in DETECTORS or (model_dir is not None and is_detector(model_dir)):
        return create_detector(model_name, model_dir, device=device, weights_dir=weights_dir)
    model_names.check(model_name, "any other network can be loaded with load(read(PATH)) of model and model.weights")
    checkpoint = read(find_weights(model_name, weights_dir) if model_dir is None else model_dir, model_name)
    if model_dir is not None:
        model_names.check_weights(model_name, checkpoint)
    return load(checkpoint, device=device, dtype=dtype)


def load(checkpoint: Checkpoint, *, device: str | None = None, dtype: str = "float32") -> SamModel:
    """Load a model from a checkpoint, for instance one that `model.weights.merge` made.

    Args:
        checkpoint: the weights.
        device: as in `create_model`.
        dtype: as in `create_model`.

    Raises:
        DeviceError: device or dtype are not to be had here.
    """
    from model.build import load_decoder, load_encoder  # here: Paddle takes 3 s to import

    decoder = load_decoder(checkpoint, device or "auto")
    return SamModel(checkpoint.name, load_encoder(checkpoint, device or "auto", dtype), decoder)


def find_weights(
    model_name: str,
    weights_dir: str | Path | None = None,
    mirror: str | None = None,
    own: str = "weights that you have can be given as model_dir",
) -> Path:
    """Return where the weights of a known model lie, downloaded first if they are not there.

    Args:
        model_name: as in `create_model`.
        weights_dir: as in `create_model`.
        mirror: address of a folder that holds the published files, instead of their publishers'.
        own: how the caller takes weights that need no download, for the message where these cannot be had.

    Raises:
        WeightsError: the name is unknown, or the weights cannot be had.
    """
    if model_name == DEMO:
        return DEMO_WEIGHTS
    model_names.check(model_name, own)
    from model.weights.download import default_folder, download  # here: what ships needs no client

    folder = default_folder() if weights_dir is None else Path(weights_dir)
    try:
        return download(model_name, folder, mirror=mirror)
    except WeightsError as error:
        raise WeightsError(f"{model_name} cannot be had: {error}; {own}") from error
