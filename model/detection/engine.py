"""Runs a checked program with Paddle's inference engine."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import paddle.inference
from paddle.base import core

from model import device as devices
from model.detection.program import DetectorProgram
from model.machine import cpu_count
from model.weights import WeightsError

Arrays = list[npt.NDArray[np.generic]]


class Engine:
    """A loaded program. Any number of threads may call it; one at a time runs.

    Attributes:
        inputs: the NumPy dtype of each input, by name.
    """

    def __init__(self, program: DetectorProgram, parameters: Path, device: str = "auto") -> None:
        """Load a program that `model.detection.program.read_checked` returned.

        Args:
            program: the program.
            parameters: its ``inference.pdiparams``.
            device: ``auto``, ``cpu`` or ``gpu:N``.

        Raises:
            DeviceError: the device is not available here.
            WeightsError: Paddle cannot load the program.
        """
        self.inputs, self._path, self._lock = program.inputs, program.path, threading.Lock()
        place = devices.resolve(device)
        devices.prepare_cpu()
        config = paddle.inference.Config(str(program.path), str(parameters))
        if place == "cpu":
            config.disable_gpu()
            config.disable_mkldnn()  # oneDNN of Paddle 3.3 corrupts some networks (Paddle issue 77340)
            config.set_cpu_math_library_num_threads(cpu_count())
        else:
            config.enable_use_gpu(100, int(place.removeprefix("gpu:")))
        config.disable_glog_info()
        config.enable_new_ir(program.is_pir)
        config.enable_new_executor()
        config.enable_memory_optim()
        try:
            self._predictor = paddle.inference.create_predictor(config)
        except (RuntimeError, ValueError, OSError) as error:  # Paddle's own errors are RuntimeErrors
            raise WeightsError(
                f"{program.path}: expected a program that Paddle can load, got: {_reason(error)}"
            ) from error
        finally:
            # That set it for the whole process, until the end of the first run. SAM's products run on threads of their
            # own: with more in each a decode would take a quarter longer.
            core.set_num_threads(1)

    def run(self, inputs: Sequence[npt.NDArray[np.generic]]) -> Arrays:
        """Return the program's outputs.

        Args:
            inputs: one array per input, in the alphabetical order of the inputs' names.

        Raises:
            WeightsError: the program cannot compute with these inputs.
        """
        names = sorted(self._predictor.get_input_names())
        assert len(names) == len(inputs)  # the loader has counted the program's inputs
        with self._lock:
            try:
                for name, array in zip(names, inputs, strict=True):
                    handle = self._predictor.get_input_handle(name)
                    handle.reshape(list(array.shape))
                    handle.copy_from_cpu(np.ascontiguousarray(array, dtype=self.inputs[name]))
                self._predictor.run()
                return [
                    self._predictor.get_output_handle(name).copy_to_cpu() for name in self._predictor.get_output_names()
                ]
            except (RuntimeError, ValueError, OSError) as error:
                raise WeightsError(f"{self._path}: expected a detector's program, got: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the sentence of Paddle's error report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error:" in line), lines[-1] if lines else type(error).__name__)[:200]
