"""The heavy half of SAM: a photo in, an embedding out; without state, safe from many threads."""

import threading

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from model import device as devices
from model.config import SamConfig
from model.transforms import to_model_input
from model.types import Embedding


class Encoder:
    """The heavy half: photos to embeddings.

    Several threads may call `encode`; they take turns, since one encode already uses the whole device.

    Attributes:
        config: the network's configuration.
        model_version: name and digest of the weights, as embeddings carry it.
        device: ``cpu`` or ``gpu:N``.
        dtype: what the network computes in.
    """

    def __init__(self, network: nn.Layer, config: SamConfig, model_version: str, device: str, dtype: str) -> None:
        self.config, self.model_version, self.device, self.dtype = config, model_version, device, dtype
        self._network = network
        self._turn = threading.Lock()

    def encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """Return what the network sees in a photo.

        Args:
            image: (H, W, 3) uint8, RGB, as a person sees it (EXIF orientation applied).

        Raises:
            ValueError: ``image`` has another shape or dtype.
        """
        pixels, input_size = to_model_input(image, self.config.image_size)
        with self._turn:
            devices.enter(self.device)
            batch = paddle.to_tensor(pixels[np.newaxis]).astype(self.dtype)
            embedding = self._network(batch).astype("float32")[0].numpy()
        return Embedding(embedding, (image.shape[0], image.shape[1]), input_size, self.model_version)
