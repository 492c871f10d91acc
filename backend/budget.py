"""A bound on the work that one request may cause, counted in steps: a small body can name things that multiply."""

from backend.errors import Reason, RequestError

STEPS = 100_000
"""Of one request: a tenth of a second, and a hundred times what a task of hundreds of images takes."""

CHARACTERS = 100
"""Of text that count as a step."""


class Budget:
    """The steps that are left; for one request, in one thread."""

    def __init__(self, steps: int = STEPS) -> None:
        self._left = steps

    def spend(self, steps: int = 1, characters: int = 0) -> None:
        """Count work that is about to be done.

        Raises:
            RequestError: it is more than what is left (``too_complex``).
        """
        self._left -= steps + characters // CHARACTERS
        if self._left < 0:
            raise RequestError(
                "the labeling config and the task's data ask for more work than a request may cause; see whether a "
                "Repeater, or a value with many variables, is repeated by mistake",
                Reason.TOO_COMPLEX,
            )
