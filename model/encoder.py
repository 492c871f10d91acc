"""The heavy half of SAM: a photo in, an embedding out; without state, safe from many threads."""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor, nn

from model import device as devices
from model.config import SamConfig
from model.transforms import to_model_input, to_squashed_input
from model.types import MAIN_MAP, Embedding, FloatArray


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
        pixels, input_size = self._input(image)
        with self._turn:
            devices.enter(self.device)
            batch = paddle.to_tensor(pixels[np.newaxis]).astype(self.dtype)
            found = [output.astype("float32")[0].numpy() for output in self._outputs(batch)]
        maps = dict(zip(self.config.embedding_shapes, found, strict=True))
        sizes = (image.shape[0], image.shape[1]), input_size
        main, family = maps.pop(MAIN_MAP), self.config.family
        return Embedding(main, *sizes, self.model_version, further_maps=maps, family=family)

    def _input(self, image: npt.NDArray[np.uint8]) -> tuple[FloatArray, tuple[int, int]]:
        """Return what the network takes, (3, S, S), and the (height, width) of the photo within."""
        return to_model_input(image, self.config.image_size)

    def _outputs(self, batch: Tensor) -> Sequence[Tensor]:
        """Return the maps of the embedding in the order of the configuration's ``embedding_shapes``."""
        return (self._network(batch),)


class Sam2Encoder(Encoder):
    """SAM 2's: the photo fills the square, and the network gives several maps."""

    def _input(self, image: npt.NDArray[np.uint8]) -> tuple[FloatArray, tuple[int, int]]:
        return to_squashed_input(image, self.config.image_size)

    def _outputs(self, batch: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = self._network(batch)
        return maps
