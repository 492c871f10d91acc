"""The heavy half of SAM: a photo in, an embedding out; without state, safe from many threads."""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor, nn

from model import device as devices
from model.config import SamConfig
from model.transforms import normalize, preprocess
from model.types import MAIN_MAP, Embedding, ModelInput


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

    def encode(self, image: npt.NDArray[np.uint8] | ModelInput) -> Embedding:
        """Return what the network sees in a photo.

        Args:
            image: (H, W, 3) uint8, RGB, as a person sees it (EXIF orientation applied); or what
                `model.transforms.preprocess` made of it, with this network's configuration.

        Raises:
            ValueError: ``image`` has another shape or dtype.
        """
        if not isinstance(image, ModelInput):
            image = preprocess(image, self.config)
        pixels = normalize(image.pixels, self.config)
        with self._turn:
            devices.enter(self.device)
            batch = paddle.to_tensor(pixels[np.newaxis]).astype(self.dtype)
            outputs = [output.astype("float32")[0].numpy() for output in self._outputs(batch)]
        maps = dict(zip(self.config.embedding_shapes, outputs, strict=True))
        height, width, _ = image.pixels.shape
        return Embedding(
            maps.pop(MAIN_MAP),
            image.original_size,
            (height, width),
            self.model_version,
            image.other_orientation,
            further_maps=maps,
            family=self.config.family,
        )

    def _outputs(self, batch: Tensor) -> Sequence[Tensor]:
        """Return the maps of the embedding in the order of the configuration's ``embedding_shapes``."""
        return (self._network(batch),)


class Sam2Encoder(Encoder):
    """SAM 2's, whose network gives several maps."""

    def _outputs(self, batch: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = self._network(batch)
        return maps
