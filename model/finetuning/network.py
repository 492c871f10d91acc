"""A decoder whose parameters change: gradients, Adam, and a moving average of the parameters.

It is the decoder that answers clicks, so there is no second form of the network. `model.modeling.kernels` works in the
tensors' memory only where no gradient is wanted.
"""

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import Tensor, nn

from model.build import load_decoder
from model.decoder import Decoder
from model.finetuning import losses
from model.modeling.tokens import Tokens
from model.types import Embedding, FloatArray, Prompt
from model.weights import Checkpoint
from model.weights.parameters import GAUSSIAN

_FIXED = (GAUSSIAN, "mask_decoder.pred_obj_score_head.", "mask_decoder.obj_score_token.")
"""SAM's positions are no parameters; SAM 2's object score is not used on single images."""
_SAM2_BIASES = ("mask_decoder.output_upscaling.0.bias", "mask_decoder.output_upscaling.3.bias")
"""`Sam2Decoder` adds them to the embedding's maps in advance."""

BETAS = 0.9, 0.99
LARGEST_GRADIENT = 1.0


class TrainableDecoder:
    """A decoder in training, and copies of it, for threads to add gradients to at the same time.

    Attributes:
        decoder: the decoder; its parameters are those in training.
        parameters: those that change, by Meta's names.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str, pull: float, others: float = losses.OTHERS, copies: int = 1
    ) -> None:
        """Load a copy of the checkpoint's decoder.

        Args:
            checkpoint: the base.
            device: see `model.build.load_decoder`.
            pull: how strongly the parameters are pulled back to those of the base, per unit of learning rate.
            others: see `losses.loss`.
            copies: of the decoder, itself included.

        Raises:
            DeviceError: as `model.build.load_decoder`.
        """
        self._decoders = [load_decoder(checkpoint, device) for _ in range(copies)]
        self.decoder, copied = self._decoders[0], [_trainable(decoder, checkpoint) for decoder in self._decoders]
        for parameters in copied:
            for parameter in parameters.values():
                parameter.stop_gradient = False
        self.parameters, *self._copies = copied
        self._pull, self._others = pull, others
        self._base = {name: parameter.numpy() for name, parameter in self.parameters.items()}
        clip = nn.ClipGradByGlobalNorm(LARGEST_GRADIENT)
        self._adam = paddle.optimizer.Adam(
            1.0, *BETAS, parameters=list(self.parameters.values()), grad_clip=clip, weight_decay=None
        )

    def features(self, embedding: Embedding, copy: int = 0) -> tuple[Tokens, ...]:
        """Return what a copy's network takes of an embedding, see `Decoder.features`."""
        return self._decoders[copy].features(embedding)

    def add_gradients(
        self,
        features: tuple[Tokens, ...],
        prompts: list[Prompt],
        embedding: Embedding,
        targets: Tensor,
        weight: float,
        copy: int = 0,
    ) -> tuple[FloatArray, FloatArray, float]:
        """Add the gradients of the loss of prompts of one shape about one image.

        Args:
            features: of the embedding, see `Decoder.features`.
            prompts: B of them.
            embedding: the image's.
            targets: (B, 1, low_res_size, low_res_size), the share of each cell that the object covers.
            weight: of this loss.
            copy: of the decoder; each is used by one thread at a time.

        Returns:
            Logits (B, M, low_res_size, low_res_size), predicted IoUs (B, M) and the loss; M is 3 for a single click.
        """
        decoder, has_score = self._decoders[copy], "score" in self.decoder.capabilities
        count = decoder.config.num_multimask_outputs
        several = prompts[0].is_single_point and has_score and count > 0
        logits, predicted = decoder.forward(features, prompts, embedding, range(count + 1))
        chosen = slice(1, None) if several else slice(0, 1)
        logits, predicted = logits[:, chosen], predicted[:, chosen]
        loss = losses.loss(logits, targets, predicted if has_score else None, self._others)
        (weight * loss).backward()
        return logits.numpy(), predicted.numpy(), float(loss)

    def step(self, rate: float) -> None:
        """Change the parameters by the gradients that were added, and clear these."""
        self._adam.set_lr(rate)
        for name, gradient in self.gradients().items():
            self.parameters[name].grad = gradient
        self._adam.step()
        self.forget_gradients()
        share = rate * self._pull
        for name, parameter in self.parameters.items() if share else ():
            parameter.set_value(parameter.numpy() * np.float32(1 - share) + self._base[name] * np.float32(share))
        values = self.values() if self._copies else {}
        for copied in self._copies:
            fill(copied, values)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients that were added to all copies, of the parameters that have one."""
        gradients: dict[str, Tensor] = {}
        for copied in (self.parameters, *self._copies):
            for name, parameter in copied.items():
                if parameter.grad is not None:
                    gradient = parameter.grad
                    gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return gradients

    def forget_gradients(self) -> None:
        """Clear the gradients that were added."""
        for copied in (self.parameters, *self._copies):
            for parameter in copied.values():
                parameter.clear_gradient(set_to_zero=False)

    def values(self) -> dict[str, FloatArray]:
        """Return the parameters' values."""
        return {name: parameter.numpy() for name, parameter in self.parameters.items()}

    def moments(self) -> dict[str, FloatArray]:
        """Return the optimiser's state, for `restore`."""
        state = self._adam.state_dict()
        names = {parameter.name: name for name, parameter in self.parameters.items()}
        return {
            f"{names[owner]}/{key[len(owner) + 1 :]}": value.numpy()
            for key, value in state.items()
            for owner in names
            if key.startswith(f"{owner}_") and isinstance(value, Tensor)
        }

    def restore(self, values: Mapping[str, FloatArray], moments: Mapping[str, FloatArray]) -> None:
        """Continue from what `values` and `moments` returned."""
        for copied in (self.parameters, *self._copies):
            fill(copied, values)
        owners = {name: parameter.name for name, parameter in self.parameters.items()}
        state = {}
        for key, value in moments.items():
            name, _, kind = key.partition("/")
            state[f"{owners[name]}_{kind}"] = paddle.to_tensor(value)
        if state:
            self._adam.set_state_dict(state)


def fill(parameters: Mapping[str, Tensor], values: Mapping[str, FloatArray]) -> None:
    """Give parameters these values."""
    for name, value in values.items():
        parameters[name].set_value(value)


def parameters_of(decoder: Decoder) -> dict[str, Tensor]:
    """Return a decoder's parameters by Meta's names."""
    parts: list[tuple[str, nn.Layer]] = [
        ("prompt_encoder.", decoder.prompt_encoder),
        ("mask_decoder.", decoder.mask_decoder),
    ]
    return {prefix + name: value for prefix, part in parts for name, value in part.named_parameters()}


def _trainable(decoder: Decoder, checkpoint: Checkpoint) -> dict[str, Tensor]:
    fixed = (*_FIXED, *_SAM2_BIASES) if checkpoint.config.family == "sam2" else _FIXED
    return {
        name: value
        for name, value in parameters_of(decoder).items()
        if name in checkpoint.tensors and not name.startswith(fixed)
    }
