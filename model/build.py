"""Encode once, decode every prompt: the two halves of SAM, built and filled from a checkpoint."""

import numpy as np
from paddle import nn

from model import device as devices
from model import machine
from model.config import HieraConfig, SamConfig, TinyVitConfig, VitConfig
from model.decoder import Decoder, Sam2Decoder
from model.encoder import Encoder, Sam2Encoder
from model.errors import DeviceError
from model.machine import cpu_count
from model.modeling import hiera
from model.modeling.image_encoder import Attention, ImageEncoderViT, Parallel, Sequential
from model.modeling.mask_decoder import MaskDecoder, Sam2MaskDecoder
from model.modeling.prompt_encoder import PromptEncoder
from model.modeling.tiny_vit import TinyVit
from model.weights import Checkpoint, WeightsError

__all__ = ["Decoder", "Encoder", "image_encoder", "load_decoder", "load_encoder"]


def load_encoder(checkpoint: Checkpoint, device: str = "auto", dtype: str = "float32") -> Encoder:
    """Build the image encoder and fill it from a checkpoint.

    Args:
        checkpoint: what `model.weights.read` returned.
        device: ``auto``, ``cpu`` or ``gpu:N``.
        dtype: ``float32``, or on a GPU ``float16`` or ``bfloat16``; norms and softmax stay in float32.

    Raises:
        DeviceError: the device or dtype is not available on this machine.
        WeightsError: the checkpoint does not fit the network.
    """
    resolved = devices.resolve(device)
    devices.check_dtype(dtype, resolved)
    is_sam2 = checkpoint.config.family == "sam2"
    if is_sam2 and resolved == "cpu" and dtype != "float32":
        name = checkpoint.config.name
        raise DeviceError(f"dtype {dtype!r}: expected a GPU for {name}, got cpu; use float32 there")
    devices.prepare_cpu()
    devices.enter(resolved)
    if resolved == "cpu":
        machine.keep_memory()  # puts the parameters on huge pages, from which products are a quarter faster
    with devices.building():
        network = image_encoder(checkpoint.config, _parallel(resolved, dtype))
    _fill(network, checkpoint, "image_encoder.")
    if dtype != "float32":
        network = network.astype(dtype)
        for layer in network.sublayers():
            if isinstance(layer, Attention | hiera.Attention):
                layer.fused = resolved != "cpu"
    network.eval()
    if resolved == "cpu":
        machine.keep_memory()  # again: the parameters may have taken all huge pages
    encoder_class = Sam2Encoder if is_sam2 else Encoder
    return encoder_class(network, checkpoint.config, checkpoint.encoder_version, resolved, dtype)


def load_decoder(checkpoint: Checkpoint, device: str = "auto") -> Decoder:
    """Build prompt encoder and mask decoder, in float32, and fill them from a checkpoint.

    Parts that the checkpoint lacks (see its ``capabilities``) stay zero and are never used.

    Raises:
        DeviceError: the device is not available on this machine.
        WeightsError: the checkpoint does not fit the network.
    """
    is_sam2 = checkpoint.config.family == "sam2"
    resolved = devices.resolve(device)
    devices.prepare_cpu()
    devices.enter(resolved)
    if resolved == "cpu":
        machine.keep_memory()  # as in `load_encoder`
    with devices.building():
        prompt_encoder = PromptEncoder(checkpoint.config)
        mask_decoder = (Sam2MaskDecoder if is_sam2 else MaskDecoder)(checkpoint.config)
    _fill(prompt_encoder, checkpoint, "prompt_encoder.")
    _fill(mask_decoder, checkpoint, "mask_decoder.")
    prompt_encoder.eval()
    mask_decoder.eval()
    return (Sam2Decoder if is_sam2 else Decoder)(prompt_encoder, mask_decoder, checkpoint, resolved)


def image_encoder(config: SamConfig, parallel: Parallel | None = None) -> nn.Layer:
    """Return the image encoder that ``config`` describes, its parameters zero."""
    if isinstance(config.image_encoder, VitConfig):
        return ImageEncoderViT(config, parallel)
    if isinstance(config.image_encoder, TinyVitConfig):
        return TinyVit(config, parallel)
    if isinstance(config.image_encoder, HieraConfig):
        return hiera.Sam2ImageEncoder(config, parallel)
    from model.modeling.conv_encoder import ConvEncoder

    return ConvEncoder(config)


def _parallel(device: str, dtype: str) -> Parallel:
    cores = cpu_count()
    return devices.ThreadPool(cores) if device == "cpu" and dtype == "float32" and cores > 1 else Sequential()


def _fill(layer: nn.Layer, checkpoint: Checkpoint, prefix: str) -> None:
    """Copy the checkpoint's tensors into ``layer``, one at a time so that no second copy of all exists."""
    for name, parameter in layer.named_parameters():
        array = checkpoint.tensors.get(prefix + name)
        if array is None:  # pruned, and guarded by the capabilities: the checkpoint was checked when it was read
            continue
        if list(array.shape) != list(parameter.shape):
            raise WeightsError(
                f"{checkpoint.path}: {prefix}{name}: expected shape {tuple(parameter.shape)}, got {tuple(array.shape)}"
            )
        parameter.set_value(np.ascontiguousarray(array, dtype=np.float32))
