"""Embeddings of the images that are learned from are kept in memory up to a number of bytes."""

import numpy as np

from model.finetuning.examples import EmbeddingCache, TrainingImage
from model.types import Embedding


def images(count, loaded):
    """Images that note when they are loaded."""

    def load(number):
        loaded.append(number)
        return Embedding(np.zeros((32, 8, 8), np.float32), (60, 80), (96, 128), "tiny@00000000")

    return [TrainingImage(str(number), lambda number=number: load(number), ()) for number in range(count)]


def test_embeddings_that_were_used_last_stay_in_memory_and_others_are_loaded_again():
    loaded = []
    first, second, third = images(3, loaded)
    room_for_two = 2 * 3 * first.load().nbytes
    loaded.clear()
    cache = EmbeddingCache(room_for_two)
    for image in (first, second, first, third, first, second):
        cache.get(image)
    assert loaded == [0, 1, 2, 1]


def test_an_embedding_that_is_larger_than_the_memory_is_loaded_each_time():
    loaded = []
    [image] = images(1, loaded)
    cache = EmbeddingCache(100)
    assert cache.get(image) is not cache.get(image)
    assert loaded == [0, 0]
