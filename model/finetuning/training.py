"""Trains a decoder on annotated images, as SAM was trained: see `model.finetuning.prompting` and `losses`.

Each step looks at a few images, at some objects of each, first with a click or a box and then with corrective clicks
and the logits so far as mask input. A pull keeps the parameters near those of the base. What is judged and kept is a
mix of the base's and the moving average of the trained ones, so that little of what the base knows is lost. The
training ends when the images kept aside have not got better for a while. With the same images, options, weights and
number of cores it gives the same numbers.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from model.build import load_decoder
from model.device import ThreadPool
from model.finetuning import judging, prompting
from model.finetuning import state as training_state
from model.finetuning.dialogue import Dialogue
from model.finetuning.examples import EmbeddingCache, TrainingImage, split
from model.finetuning.judging import Judgement, Scores
from model.finetuning.network import TrainableDecoder, fill, parameters_of
from model.finetuning.state import TrainingState
from model.machine import cpu_count
from model.modeling.image_encoder import Parallel, Sequential
from model.types import Embedding, FloatArray
from model.weights import Checkpoint, decoder_weights

FEWEST_IMAGES = 2
"""One to learn from and one to judge by."""
JUDGEMENTS, PATIENCE = 16, 4
"""How often a training is judged, and after how many judgements without a better one it ends."""
MOST_JUDGED = 160
"""Objects that are judged; of more, some of every image."""
WARM_UP = 0.05
AVERAGE_DECAY = 0.98
ROUNDS = (1, 2, 3)
"""How many times an object is asked about, one of these numbers."""
MARGIN, TOLERANCE = 0.005, 0.01
"""How much better the mean IoU of a decoder that is taken is, at least, and how much worse any kind of prompt's."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        seed: decides which images are kept aside and which prompts are drawn.
        epochs: how often each image is looked at, at most.
        rate: the highest learning rate.
        pull: how strongly the parameters are pulled back to the base's, per step and unit of learning rate.
        mix: share of the learned change that is kept: what is judged and kept lies on the line from the base's
            parameters to the trained ones (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).
        images: of a step.
        objects: of an image, at most, at a time.
    """

    seed: int = 0
    epochs: int = 20
    rate: float = 3e-4
    pull: float = 20.0
    mix: float = 0.45
    images: int = 4
    objects: int = 8


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step: of ``steps``.
        steps: at most.
        left_s: how long it takes if it does not end early, in seconds; 0 before that can be told.
        scores: of the judgements so far, the base's first.
    """

    step: int
    steps: int
    left_s: float
    scores: Sequence[float]


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a training.

    Attributes:
        tensors: the best decoder, fit for `model.weights.decoder_weights.dump`.
        before: what the base's decoder makes of the images kept aside.
        after: what the best decoder makes of them.
        learned_from: how many images were learned from.
        ended: why it ended: ``complete``, ``no better`` or ``stopped``.
    """

    tensors: dict[str, FloatArray]
    before: Sequence[Judgement]
    after: Sequence[Judgement]
    learned_from: int
    ended: str

    @property
    def is_better(self) -> bool:
        """Whether the mean over all kinds of prompt rose, and that of none of them fell, by more than chance may do."""
        before, after = Scores.of(self.before), Scores.of(self.after)
        falls = any(after.ious[kind] < value - TOLERANCE for kind, value in before.ious.items())
        return after.mean >= before.mean + MARGIN and not falls


@dataclass
class _Clock:
    """Seconds that steps and judgements took."""

    steps: list[float] = field(default_factory=list)
    judgements: list[float] = field(default_factory=list)

    def left(self, steps: int, judgements: int) -> float:
        each = [sum(taken) / len(taken) if taken else 0.0 for taken in (self.steps[-50:], self.judgements)]
        return steps * each[0] + judgements * each[1]


class Training:
    """One training."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        images: Sequence[TrainingImage],
        options: TrainingOptions,
        state_file: Path | None = None,
        device: str = "auto",
    ) -> None:
        """Load the base's decoder, twice: one to train, and one to judge.

        Args:
            checkpoint: the base; it is not changed.
            images: a fifth of them is kept aside.
            options: how to train.
            state_file: keeps the state, so that a training of the same images and options goes on from there.
            device: see `model.build.load_decoder`.

        Raises:
            ValueError: there are fewer than `FEWEST_IMAGES` images.
            DeviceError: the device is not available on this machine.
        """
        self._learned, self._aside = split(images, options.seed)
        if len({image.key for image in images}) < FEWEST_IMAGES:
            raise ValueError(f"images: expected at least {FEWEST_IMAGES} different ones, got {len(images)}")
        self._checkpoint, self._options, self._file = checkpoint, options, state_file
        self._judge = load_decoder(checkpoint, device)
        copies = min(cpu_count(), options.images) if self._judge.device == "cpu" else 1
        self._trained = TrainableDecoder(checkpoint, device, options.pull, copies=copies)
        self._parallel: Parallel = ThreadPool(copies) if copies > 1 else Sequential()
        self._copies = range(copies)
        self._base = self._trained.values()
        self._embeddings = EmbeddingCache()
        self._per_epoch = math.ceil(len(self._learned) / options.images)
        self.steps = options.epochs * self._per_epoch
        self._judge_every = max(1, math.ceil(self.steps / JUDGEMENTS))
        self._clock = _Clock()

    def run(self, stop: threading.Event, on_progress: Callable[[Progress], None] = lambda _: None) -> Result:
        """Train until it gets no better, all steps are made, or ``stop`` is set; the best decoder so far is kept.

        Args:
            stop: is looked at between the images of a step.
            on_progress: is called after every step and judgement.

        Raises:
            OSError: the state cannot be written.
        """
        before, after = self._judged(self._base), None
        state = self._begin()
        if not state.scores:
            state.scores.append(_mean(before))
        elif state.best:
            after = self._judged(state.best)
        while not (ended := self._ended(state, stop)):
            began = time.monotonic()
            if not self._step(state, stop):
                continue
            self._clock.steps.append(time.monotonic() - began)
            if state.step % self._judge_every == 0 or state.step == self.steps:
                mixed = self._mixed(state.average)
                judgements = self._judged(mixed)
                if _mean(judgements) > max(state.scores):
                    after, state.best, state.best_at = judgements, mixed, state.step
                state.scores.append(_mean(judgements))
                self._save(state)
            on_progress(self._progress(state))
        if ended == "stopped":
            self._save(state)
        tensors = {**decoder_weights.own_tensors(self._checkpoint), **state.best}
        return Result(tensors, before, after or before, len(self._learned), ended)

    def _begin(self) -> TrainingState:
        state = None if self._file is None else training_state.load(self._file, self._fingerprint())
        if state is None:
            return TrainingState(values=self._base, average=dict(self._base))
        self._trained.restore(state.values, state.moments)
        return state

    def _ended(self, state: TrainingState, stop: threading.Event) -> str:
        if state.step >= self.steps:
            return "complete"
        if state.step >= state.best_at + PATIENCE * self._judge_every:
            return "no better"
        return "stopped" if stop.is_set() else ""

    def _step(self, state: TrainingState, stop: threading.Event) -> bool:
        """Make a step; return whether it was made, since ``stop`` ends it."""
        options, step = self._options, state.step
        order = np.random.default_rng([options.seed, step // self._per_epoch, 1]).permutation(len(self._learned))
        first = step % self._per_epoch * options.images
        chosen = [self._learned[i] for i in order[first : first + options.images]]
        embeddings = [self._embeddings.get(image) for image in chosen]

        def learn(copy: int) -> None:
            for index in range(copy, len(chosen), len(self._copies)):
                if not stop.is_set():
                    rng = np.random.default_rng([options.seed, step, index])
                    self._learn_from(rng, chosen[index], embeddings[index], 1 / len(chosen), copy)

        self._parallel.map(learn, self._copies)
        if stop.is_set():
            self._trained.forget_gradients()
            return False
        self._trained.step(self._rate(step))
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        values = self._trained.values()
        state.average = {
            name: np.asarray(decay * value + (1 - decay) * values[name], np.float32)
            for name, value in state.average.items()
        }
        state.step += 1
        return True

    def _learn_from(
        self, rng: prompting.Rng, image: TrainingImage, embedding: Embedding, weight: float, copy: int
    ) -> None:
        """Add the gradients of an image: of one half of the chosen objects by a click, of the other by a box."""
        features = self._trained.features(embedding, copy)
        chosen = rng.permutation(len(image.objects))[: self._options.objects]
        objects = [image.objects[i] for i in chosen]
        rounds = int(rng.choice(ROUNDS))
        middle = (len(objects) + int(rng.integers(2))) // 2
        for by_box, part in ((False, objects[:middle]), (True, objects[middle:])):
            if part:
                share = weight * len(part) / len(objects) / rounds
                dialogue = Dialogue(self._trained.decoder.capabilities, rng, embedding, part, by_box)
                for _ in dialogue.rounds(rounds):
                    dialogue.logits, dialogue.predicted, _ = self._trained.add_gradients(
                        features, dialogue.prompts(), embedding, dialogue.targets, share, copy
                    )

    def _rate(self, step: int) -> float:
        progress = step / self.steps
        return (
            self._options.rate
            * min(1.0, progress / WARM_UP + 0.02)
            * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)
        )

    def _mixed(self, values: training_state.Tensors) -> dict[str, FloatArray]:
        mix = np.float32(self._options.mix)
        return {name: self._base[name] + mix * (value - self._base[name]) for name, value in values.items()}

    def _judged(self, values: training_state.Tensors) -> list[Judgement]:
        began = time.monotonic()
        fill(parameters_of(self._judge), values)
        images = self._aside[:MOST_JUDGED]
        most = max(1, MOST_JUDGED // len(images))
        judgements = list(judging.judge(self._judge, images, self._embeddings.get, most))
        self._clock.judgements.append(time.monotonic() - began)
        return judgements

    def _progress(self, state: TrainingState) -> Progress:
        left = self.steps - state.step
        return Progress(state.step, self.steps, self._clock.left(left, left // self._judge_every), tuple(state.scores))

    def _save(self, state: TrainingState) -> None:
        if self._file is not None:
            state.values, state.moments = self._trained.values(), self._trained.moments()
            training_state.save(self._file, state, self._fingerprint())

    def _fingerprint(self) -> str:
        """Return a digest of all that the training depends on."""
        digest = hashlib.sha256(msgspec.json.encode([self._checkpoint.digest, asdict(self._options)]))
        for image in (*self._learned, *self._aside):
            digest.update(image.digest.encode())
        return digest.hexdigest()


def _mean(judgements: Sequence[Judgement]) -> float:
    return Scores.of(judgements).mean
