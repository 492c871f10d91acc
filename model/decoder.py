"""The light half of SAM: an embedding and prompts in, masks out; without state, safe from many threads."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import paddle

from model import device as devices
from model.errors import CapabilityError
from model.machine import cpu_count
from model.modeling.blas import product
from model.modeling.image_encoder import Parallel, Sequential
from model.modeling.mask_decoder import MaskDecoder, Sam2MaskDecoder
from model.modeling.prompt_encoder import PromptEncoder
from model.modeling.tokens import Tokens, as_array, concat
from model.transforms import mask_and_areas, mask_to_model, points_to_model
from model.types import MAIN_MAP, Embedding, FloatArray, Mask, Masks, Prompt, as_prompts
from model.weights import Checkpoint

R = TypeVar("R")

GPU_BATCH = 16
"""Prompts that a GPU decodes at once: bounds its memory. On a CPU each prompt is decoded by itself, as many at a time
as there are cores: the maps of one prompt stay in cache, those of several do not.
"""

HIGH_RES_MAPS = ("high_res_feat_s1", "high_res_feat_s0")
"""What SAM 2's mask decoder adds as it upscales, in the order in which it does."""

LARGEST_LOGIT = 32.0
"""What SAM 2 cuts the logits to that it gives back, for them to be a mask input later."""

SINGLE_MASK = (0,)
AMBIGUOUS_MASKS = (1, 2, 3)


class Decoder:
    """The light half: prompts about an embedding to masks. Any number of threads may call `decode` at once.

    Attributes:
        config: the network's configuration.
        model_version: name and digest of the weights, and the name of a fine-tuned decoder.
        encoder_version: the same without that name; embeddings must carry it.
        prepared_version: names what is kept beside an embedding; that of a fine-tuned decoder is its base's.
        capabilities: what these weights can do, of ``points``, ``negative_points``, ``boxes``, ``mask_input``,
        ``score``.
        device: ``cpu`` or ``gpu:N``.
        batch_size: largest number of prompts of one shape that are decoded together; 1 on a CPU.
        prompt_encoder: the network's part for points, boxes and masks.
        mask_decoder: the network's part that makes masks.
        image_pe: the positional encoding of the image tokens, (1, g*g, C).
    """

    def __init__(
        self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, checkpoint: Checkpoint, device: str
    ) -> None:
        self.config, self.model_version = checkpoint.config, checkpoint.model_version
        self.encoder_version = self.prepared_version = checkpoint.encoder_version
        self.capabilities, self.device = checkpoint.capabilities, device
        self.prompt_encoder, self.mask_decoder = prompt_encoder, mask_decoder
        self.batch_size = GPU_BATCH
        self._parallel: Parallel = Sequential()  # for several prompts
        self._alone: Parallel = Sequential()  # for the parts of a single one
        if device == "cpu":
            pool = devices.ThreadPool(cpu_count())
            self.batch_size, self._parallel = 1, pool
            if self.config.divides_decodes:
                self._alone = devices.SpreadThreads(pool)
        self._in_turn = Sequential(self._alone.parts)  # the same parts, so that answers are the same to the bit
        devices.enter(device)
        self.image_pe = prompt_encoder.image_pe()

    def decode(
        self, embedding: Embedding, prompts: Prompt | Iterable[Prompt], multimask_output: bool | None = None
    ) -> Masks:
        """Answer prompts about one image, all of them in as few batches as their shapes allow.

        Args:
            embedding: what `Encoder.encode` returned for the image.
            prompts: one per object.
            multimask_output: None for the best of three by predicted IoU where the prompt is a single positive point
                (it may mean the part or the whole) and the single mask elsewhere; True for all three; False for the
                single mask.

        Returns:
            One entry per prompt, in order.

        Raises:
            ValueError: the embedding is of another model, or a mask input has the wrong size.
            CapabilityError: the weights lack what a prompt needs.
        """

        def finish(_: int, logits: FloatArray, scores: FloatArray) -> _Answer:
            return self._answer(logits, scores, embedding, multimask_output)

        answers = self.decode_each(embedding, prompts, multimask_output, finish)
        masks, scores, logits = zip(*answers, strict=True)
        return Masks(masks, scores if "score" in self.capabilities else None, logits)

    def decode_each(
        self,
        embedding: Embedding,
        prompts: Prompt | Iterable[Prompt],
        multimask_output: bool | None,
        finish: Callable[[int, FloatArray, FloatArray], R],
    ) -> list[R]:
        """Decode prompts as `decode` does, for a caller who makes something else of the logits than their masks.

        Args:
            embedding: as in `decode`.
            prompts: as in `decode`.
            multimask_output: as in `decode`, but where it chooses one of three, all three are handed over.
            finish: given a prompt's index, its logits (M, low_res_size, low_res_size) and the predicted IoUs (M,) as
                the network says them (some are above 1; meaningless without the capability ``score``), returns what
                to keep of them. Called from several threads at a time.

        Returns:
            What ``finish`` returned for each prompt, in order.

        Raises:
            ValueError: as `decode`.
            CapabilityError: as `decode`.
        """
        prompt_list = as_prompts(prompts)
        self._check(embedding, prompt_list)
        devices.enter(self.device)
        features = self.features(embedding)
        groups: dict[_Shape, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompt_list):
            groups[self._shape(prompt, multimask_output)].append(index)
        parts = [
            (shape, indexes[start : start + self.batch_size])
            for shape, indexes in groups.items()
            for start in range(0, len(indexes), self.batch_size)
        ]

        def answer(part: tuple[_Shape, list[int]]) -> list[R]:
            shape, indexes = part
            logits, scores = self.forward(features, [prompt_list[i] for i in indexes], embedding, shape.outputs, within)
            return [finish(*row) for row in zip(indexes, as_array(logits), as_array(scores), strict=True)]

        answers: dict[int, R] = {}
        parallel, within = (self._parallel, self._in_turn) if len(parts) > 1 else (self._in_turn, self._alone)
        for (_, indexes), of_part in zip(parts, parallel.map(answer, parts), strict=True):
            answers.update(zip(indexes, of_part, strict=True))
        return [answers[i] for i in range(len(prompt_list))]

    def mask_and_areas(
        self, logits: FloatArray, embedding: Embedding, levels: Sequence[float] = ()
    ) -> tuple[Mask, tuple[int, ...]]:
        """Return the mask of the photo that logits say, and its areas at other levels.

        Args:
            logits: (low_res_size, low_res_size) float32.
            embedding: of the photo.
            levels: see `model.transforms.mask_and_areas`.
        """
        sizes = embedding.input_size, embedding.original_size, self.config.image_size
        return mask_and_areas(logits, *sizes, levels, product=product)

    def _check(self, embedding: Embedding, prompts: Sequence[Prompt]) -> None:
        low, expected = self.config.low_res_size, self.config.embedding_shapes
        if embedding.family != self.config.family:
            raise ValueError(
                f"embedding: expected one of a {self.config.family} network, {self.encoder_version}, "
                f"got one of a {embedding.family} network, {embedding.model_version}"
            )
        shapes = {name: array.shape for name, array in embedding.maps.items()}
        if embedding.model_version != self.encoder_version or shapes != expected:
            raise ValueError(
                f"embedding: expected {_described(expected)} made by {self.encoder_version}, "
                f"got {_described(shapes)} made by {embedding.model_version}"
            )
        for prompt in prompts:
            for capability in sorted(prompt.needs - self.capabilities):
                raise CapabilityError(
                    f"{self.model_version} cannot take {capability.replace('_', ' ')}: "
                    f"expected one of {', '.join(sorted(self.capabilities - {'score'}))}"
                )
            if prompt.mask_input is not None and prompt.mask_input.shape != (low, low):
                raise ValueError(f"mask_input: expected shape {(low, low)}, got {prompt.mask_input.shape}")

    def _shape(self, prompt: Prompt, multimask_output: bool | None) -> "_Shape":
        best_of_three = prompt.is_single_point and "score" in self.capabilities
        several = best_of_three if multimask_output is None else multimask_output
        return _Shape(
            points=0 if prompt.point_coords is None else len(prompt.point_coords),
            has_box=prompt.box is not None,
            has_mask=prompt.mask_input is not None or prompt.rough_mask is not None,
            outputs=AMBIGUOUS_MASKS[: self.config.num_multimask_outputs] if several else SINGLE_MASK,
        )

    def features(self, embedding: Embedding) -> tuple[Tokens, ...]:
        """Return what the network takes of an embedding: the image tokens (1, g*g, C), then what else it needs.

        They are arrays on a CPU, and tensors on a GPU.

        It is the same for every prompt, so it is kept there for the next one: 4 MiB for SAM at 1024, 16 for SAM 2.
        """
        arrays = embedding.prepared.get(self.prepared_version)
        if arrays is None:
            arrays = self._prepare(embedding)
            embedding.prepared.keep(self.prepared_version, arrays)
        return arrays if self.device == "cpu" else tuple(paddle.to_tensor(array) for array in arrays)

    def _prepare(self, embedding: Embedding) -> tuple[FloatArray, ...]:
        return (channels_last(embedding.image_embedding),)

    def forward(
        self,
        features: tuple[Tokens, ...],
        prompts: Sequence[Prompt],
        embedding: Embedding,
        outputs: Sequence[int],
        parallel: Parallel | None = None,
    ) -> tuple[Tokens, Tokens]:
        """Decode prompts that have the same number of points, and all or none of them a box and a mask.

        Gradients flow to the parameters, where all that fine-tuning changes want them.

        Args:
            features: what `features` returned for the embedding.
            prompts: B of them.
            embedding: of the image.
            outputs: M indexes of mask tokens, 0 for the single mask.
            parallel: maps over parts of the image; None for one part.

        Returns:
            Logits (B, M, low_res_size, low_res_size) and predicted IoUs (B, M); arrays on a CPU unless they want
            gradients.
        """
        tokens = self._tokens(prompts, embedding)
        none = [np.zeros((len(prompts), 0, self.config.prompt_embed_dim), np.float32)] if not tokens else []
        sparse = tokens[0] if len(tokens) == 1 else concat([*none, *tokens], axis=1)  # (B, n, C)
        has_mask = prompts[0].mask_input is not None or prompts[0].rough_mask is not None
        masks = paddle.to_tensor(self._mask_inputs(prompts, embedding)) if has_mask else None
        found: tuple[Tokens, Tokens] = self.mask_decoder(
            features[0],
            self.image_pe,
            sparse,
            list(outputs),
            *features[1:],
            dense=self.prompt_encoder.dense(masks),
            parallel=parallel,
        )
        return found

    def _tokens(self, prompts: Sequence[Prompt], embedding: Embedding) -> list[Tokens]:
        """Return the tokens of points and boxes, each (B, n, C)."""
        sizes, tokens = (embedding.original_size, embedding.input_size), []
        encoder, has_box = self.prompt_encoder, prompts[0].box is not None
        if prompts[0].point_coords is not None:
            coords = np.stack([points_to_model(p.point_coords, *sizes) for p in prompts if p.point_coords is not None])
            labels = np.stack([p.point_labels for p in prompts if p.point_labels is not None]).astype(np.float32)
            tokens.append(encoder.points(coords, labels, pad=not has_box))
        if has_box:
            corners = np.stack([points_to_model(p.box.reshape(2, 2), *sizes) for p in prompts if p.box is not None])
            tokens.append(encoder.boxes(corners.reshape(-1, 4)))
        return tokens

    def _mask_inputs(self, prompts: Sequence[Prompt], embedding: Embedding) -> FloatArray:
        low, rows = self.config.low_res_size, []
        for prompt in prompts:
            if prompt.rough_mask is None:
                rows.append(prompt.mask_input)
                continue
            (height, width), (rows_, columns) = embedding.original_size, prompt.rough_mask.shape
            is_larger = rows_ > height or columns > width
            if is_larger or abs(rows_ * width - columns * height) > max(height, width):  # a pixel, as sides are whole
                raise ValueError(
                    f"rough_mask: expected the photo's size {embedding.original_size}, got {prompt.rough_mask.shape}, "
                    "which is not that of a smaller copy either"
                )
            rows.append(mask_to_model(prompt.rough_mask, embedding.input_size, self.config.image_size, low))
        return np.stack([row for row in rows if row is not None])[:, np.newaxis]  # (B, 1, L, L)

    def _answer(
        self, logits: FloatArray, scores: FloatArray, embedding: Embedding, multimask_output: bool | None
    ) -> "_Answer":
        """Return masks, scores and logits (M, L, L) of one prompt."""
        if multimask_output is None and len(scores) > 1:
            best = int(scores.argmax())
            logits, scores = logits[best : best + 1], scores[best : best + 1]
        masks = tuple(self.mask_and_areas(low_res, embedding)[0] for low_res in logits)
        return masks, tuple(float(score) for score in np.clip(scores, 0.0, 1.0)), logits


class Sam2Decoder(Decoder):
    """SAM 2's: it looks at maps of higher resolution too, and the photo fills the square input."""

    def __init__(
        self, prompt_encoder: PromptEncoder, mask_decoder: Sam2MaskDecoder, checkpoint: Checkpoint, device: str
    ) -> None:
        super().__init__(prompt_encoder, mask_decoder, checkpoint, device)
        self._biases = [bias.numpy() for bias in mask_decoder.upscaling_biases()]  # fine-tuning does not change them
        digest = hashlib.sha256(b"".join(bias.tobytes() for bias in self._biases)).hexdigest()
        self.prepared_version = f"{checkpoint.encoder_version}/{digest[:16]}"

    def mask_and_areas(
        self, logits: FloatArray, embedding: Embedding, levels: Sequence[float] = ()
    ) -> tuple[Mask, tuple[int, ...]]:
        """Return the mask of the photo that logits say, and its areas at other levels; see `Decoder`.

        SAM 2 stretches the logits to the photo in one step, not by way of the square.
        """
        side = len(logits)
        return mask_and_areas(logits, (side, side), embedding.original_size, side, levels, product=product)

    def _answer(
        self, logits: FloatArray, scores: FloatArray, embedding: Embedding, multimask_output: bool | None
    ) -> "_Answer":
        masks, ious, logits = super()._answer(logits, scores, embedding, multimask_output)
        return masks, ious, logits.clip(-LARGEST_LOGIT, LARGEST_LOGIT)

    def _prepare(self, embedding: Embedding) -> tuple[FloatArray, ...]:
        maps = zip((embedding.further_maps[name] for name in HIGH_RES_MAPS), self._biases, strict=True)
        skips = [sub_pixels(array, self.config.embedding_size, bias) for array, bias in maps]
        return (*super()._prepare(embedding), *skips)

    def _tokens(self, prompts: Sequence[Prompt], embedding: Embedding) -> list[Tokens]:
        tokens = super()._tokens(prompts, embedding)
        # Corners of a box are points to SAM 2, and it says "not a point" after all that came.
        return [*tokens, self.prompt_encoder.nothing(len(prompts))] if prompts[0].box is not None else tokens


_Answer: TypeAlias = tuple[tuple[Mask, ...], tuple[float, ...], FloatArray]


@dataclass(frozen=True)
class _Shape:
    """What prompts must share to be decoded in one batch without padding, which would change their answers."""

    points: int
    has_box: bool
    has_mask: bool
    outputs: tuple[int, ...]


def channels_last(array: npt.NDArray[np.floating]) -> FloatArray:
    """Return a map (C, h, w) as float32 tokens (1, h*w, C)."""
    features = np.asarray(array, dtype=np.float32).reshape(len(array), -1)
    # numpy's and Paddle's own transposition take six times as long.
    return np.asarray(cv2.transpose(features)[np.newaxis], np.float32)


def sub_pixels(array: npt.NDArray[np.floating], grid: int, bias: FloatArray) -> FloatArray:
    """Return a map (C, h, w) plus a bias (C,) as (1, h*w, C) in the order in which image tokens are upscaled.

    Row and column of the token come first, then those within it, of each halving of the grid at a time.
    """
    channels, side = len(array), array.shape[1]
    halvings = (side // grid).bit_length() - 1
    shape = [grid, *[2] * halvings, grid, *[2] * halvings, channels]
    order = [axis + start for axis in range(halvings + 1) for start in (0, halvings + 1)]
    placed = np.add(channels_last(array).reshape(shape).transpose([*order, len(shape) - 1]), bias, order="C")
    return np.asarray(placed.reshape(1, -1, channels), np.float32)


def _described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" if name != MAIN_MAP else str(shape) for name, shape in shapes.items())
