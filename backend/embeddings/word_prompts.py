"""From words to prompts: what a detector finds on an image becomes labelled boxes, as if a person had drawn them."""

from collections import Counter
from dataclasses import dataclass, replace

from backend.embeddings.local import Embeddings
from backend.types import ImageRef, Priority, PromptRegion
from backend.words import WordQuery, Words


@dataclass(frozen=True)
class WordSearch:
    """Looks for the same words on any number of images; safe from many threads."""

    embeddings: Embeddings
    words: Words  # what to look for, with labels
    query: WordQuery  # the same for the detector
    max_masks: int | None = None  # the most objects on one image, the best first; None for all

    def prompts(self, ref: ImageRef, to_name: str, within_s: float, priority: Priority) -> list[PromptRegion]:
        """Return a box for each object on an image, the detector's highest score first.

        The id of a box is made of its word and its rank among the boxes of that word: asked again, an object has the
        same id, and objects of other words have others.

        Raises:
            BackendError: see `backend.embeddings.local.Embeddings.find`.
        """
        boxes = self.embeddings.find(replace(ref, words=self.query), within_s, priority)[: self.max_masks]
        ranks: Counter[str] = Counter()
        regions = []
        for box in boxes:
            label, rank = self.words[box.word], ranks[box.word]
            ranks[box.word] += 1
            regions.append(
                PromptRegion(
                    id=f"words:{to_name}:{ref.item_index}:{box.word}:{rank}",
                    shape=box.box,
                    from_name="",
                    to_name=to_name,
                    labels=(label,) if label else (),
                    item_index=ref.item_index,
                    score=box.score,
                )
            )
        return regions
