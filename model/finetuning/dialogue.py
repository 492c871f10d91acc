"""What a decoder is asked in a step about objects of one image: first prompts, then corrections of its answers."""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle

from model.decoder import LARGEST_LOGIT
from model.finetuning import prompting
from model.finetuning.examples import TrainingObject
from model.types import Embedding, FloatArray, Prompt


class Dialogue:
    """First prompts about some objects of an image, then corrections of what came of them."""

    def __init__(
        self,
        capabilities: frozenset[str],
        rng: prompting.Rng,
        embedding: Embedding,
        objects: Sequence[TrainingObject],
        by_box: bool,
    ) -> None:
        self._rng, self._embedding, self._capabilities = rng, embedding, capabilities
        self._covers = [each.cover() for each in objects]
        self.targets = paddle.to_tensor(np.stack(self._covers)[:, np.newaxis])  # (B, 1, L, L)
        by_box = "boxes" in capabilities and (by_box or "points" not in capabilities)
        self._boxes = [prompting.jittered_box(rng, each.rle) if by_box else None for each in objects]
        self._clicks: list[list[prompting.Click]] = [
            [] if by_box else [prompting.first_click(rng, cover, embedding)] for cover in self._covers
        ]
        self._previous: list[FloatArray | None] = [None] * len(objects)
        self.logits: FloatArray | None = None
        self.predicted: FloatArray | None = None

    def rounds(self, count: int) -> Iterator[None]:
        """Yield before each round, with the corrections of the last in `prompts`; its user sets what came of them."""
        can_correct = {"points", "negative_points"} <= self._capabilities
        for number in range(count if can_correct else 1):
            if number:
                self._correct()
            yield

    def prompts(self) -> list[Prompt]:
        """Return the prompts of this round, one per object."""
        return [
            Prompt(
                np.array([click[:2] for click in clicks], np.float32) if clicks else None,
                np.array([click[2] for click in clicks], np.int32) if clicks else None,
                box,
                previous,
            )
            for clicks, box, previous in zip(self._clicks, self._boxes, self._previous, strict=True)
        ]

    def _correct(self) -> None:
        assert self.logits is not None
        assert self.predicted is not None
        for index, best in enumerate(self.predicted.argmax(axis=1)):
            logits = self.logits[index, best]
            click = prompting.corrective_click(self._rng, self._covers[index], logits, self._embedding)
            self._clicks[index].append(click)
            if "mask_input" in self._capabilities:
                self._previous[index] = logits.clip(-LARGEST_LOGIT, LARGEST_LOGIT)
