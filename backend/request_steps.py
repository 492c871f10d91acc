"""Bounds the work that one request may cause, counted in steps: in a small body, repeaters can multiply."""

from backend.errors import Reason, RequestError

STEPS = 100_000  # steps of one request: a tenth of a second, a hundred times what a task of hundreds of images takes
CHARACTERS = 100  # characters of text that count as one step


class StepLimit:
    """The remaining steps of one request; for use in one thread.

    >>> step_limit = StepLimit(steps=10)
    >>> step_limit.spend(steps=7, characters=300)
    >>> try:
    ...     step_limit.spend()
    ... except RequestError as error:
    ...     print(error.reason)
    too_complex
    """

    def __init__(self, steps: int = STEPS) -> None:
        self._left = steps

    def spend(self, steps: int = 1, characters: int = 0) -> None:
        """Count steps before the work is done, and a step for each `CHARACTERS` characters of text to be processed.

        Raises:
            RequestError: the step limit is exceeded (``too_complex``).
        """
        self._left -= steps + characters // CHARACTERS
        if self._left < 0:
            raise RequestError(
                "the labeling config and the task's data ask for more work than a request may cause; see whether a "
                "Repeater, or a value with many variables, is repeated by mistake",
                Reason.TOO_COMPLEX,
            )
