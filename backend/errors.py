"""The exceptions of this backend, sorted by what the caller can do about them.

BackendError            always carries a ``Reason`` and says whether trying again helps
├── RequestError        the request cannot be fulfilled: change the request
│   ├── ProtocolError   the body is not what Label Studio sends: answer 400
│   ├── ConfigError     the labeling config has to change: say which tag
│   └── PromptError     the prompts do not mark an object: answer an empty result
├── ImageError          this image cannot be segmented, now or later: use another image
├── AccessError         an operator has to change a token, an address rule or a setting
└── RetryLater          nothing is wrong with the request: the same one may succeed later

>>> error = ImageError("expected an image, got 0 bytes")
>>> error.retry, error.reason.value
(False, 'image_unreadable')
>>> RetryLater("the network failed", Reason.IMAGE_FETCH_FAILED, retry_after_s=5).retry
True
"""

from enum import Enum
from typing import TypeVar


class Reason(str, Enum):
    """Why an answer is empty or an error was raised; log, metrics and status page report the same codes."""

    # Not a failure: there was nothing to segment.
    NO_CONTEXT = "no_context"
    OPENED_TASK = "opened_task"
    JUST_ANSWERED = "just_answered"
    NO_PROMPT = "no_prompt"
    ONLY_NEGATIVE_POINTS = "only_negative_points"
    EMPTY_MASK = "empty_mask"

    # The request.
    BAD_REQUEST = "bad_request"
    BODY_TOO_LARGE = "body_too_large"
    BAD_GEOMETRY = "bad_geometry"
    OUTSIDE_IMAGE = "outside_image"
    UNSUPPORTED_PROMPT = "unsupported_prompt"
    NOT_A_PROMPT = "not_a_prompt"
    TOO_MANY_POINTS = "too_many_points"
    TOO_COMPLEX = "too_complex"
    SIZE_MISMATCH = "size_mismatch"
    NOT_IN_COCO_FILE = "not_in_coco_file"
    AMBIGUOUS_FILE_NAME = "ambiguous_file_name"
    UNKNOWN_LABEL = "unknown_label"

    # The labeling config.
    NO_LABEL_CONFIG = "no_label_config"
    BAD_LABEL_CONFIG = "bad_label_config"
    NO_IMAGE_TAG = "no_image_tag"
    NO_OUTPUT_CONTROL = "no_output_control"

    # The task and its image.
    NO_IMAGE_IN_TASK = "no_image_in_task"
    ITEM_INDEX_OUT_OF_RANGE = "item_index_out_of_range"
    UNSUPPORTED_IMAGE_SOURCE = "unsupported_image_source"
    UNSUPPORTED_IMAGE_FORMAT = "unsupported_image_format"
    IMAGE_NOT_FOUND = "image_not_found"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_UNREADABLE = "image_unreadable"

    # What an operator can change.
    AUTH_FAILED = "auth_failed"
    FORBIDDEN_ADDRESS = "forbidden_address"
    FORBIDDEN_PATH = "forbidden_path"
    UNTRUSTED_CERTIFICATE = "untrusted_certificate"
    LABEL_STUDIO_NOT_CONFIGURED = "label_studio_not_configured"

    # Temporary failures.
    IMAGE_FETCH_FAILED = "image_fetch_failed"
    LABEL_STUDIO_UNREACHABLE = "label_studio_unreachable"
    BUDGET_EXCEEDED = "budget_exceeded"
    OVERLOADED = "overloaded"
    SUPERSEDED = "superseded"
    STORE_UNAVAILABLE = "store_unavailable"
    MODEL_NOT_READY = "model_not_ready"
    NO_WORKER = "no_worker"
    ENCODE_FAILED = "encode_failed"
    DECODE_FAILED = "decode_failed"
    OUT_OF_MEMORY = "out_of_memory"

    # A defect of this program.
    INTERNAL_ERROR = "internal_error"

    def __str__(self) -> str:
        return self.value


class BackendError(Exception):
    """An error with a reason that an empty answer can report; it can be copied, as several threads may raise it.

    Attributes:
        reason: the machine-readable cause.
        retry: whether the same request may succeed later without anyone changing anything.
    """

    retry: bool = False
    default_reason: Reason = Reason.INTERNAL_ERROR

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = self.default_reason if reason is None else reason

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the constructor with `args`, which fails for a subclass that takes other arguments.
        return _rebuilt, (type(self), self.args), self.__dict__


_Kind = TypeVar("_Kind", bound=BackendError)


def _rebuilt(kind: type[_Kind], args: tuple[object, ...]) -> _Kind:
    """Return an error without calling its constructor; its attributes are copied to it afterwards."""
    return kind.__new__(kind, *args)


class RequestError(BackendError):
    """The request cannot be fulfilled; the same request will fail again."""

    default_reason = Reason.BAD_REQUEST


class ProtocolError(RequestError):
    """The body is not JSON, or not shaped like anything Label Studio sends; the answer is a 400 with one line."""


class ConfigError(RequestError):
    """The labeling config cannot be used; the message names the tag and what to write instead."""

    default_reason = Reason.BAD_LABEL_CONFIG


class PromptError(RequestError):
    """The prompts do not mark an object; the answer is a well-formed empty result."""

    default_reason = Reason.NO_PROMPT


class ImageError(BackendError):
    """This image cannot be segmented: it is missing, too large, damaged, or of an unsupported format."""

    default_reason = Reason.IMAGE_UNREADABLE


class AccessError(BackendError):
    """The image's server or Label Studio refuses this backend; an operator has to change a token, a rule or a path."""

    default_reason = Reason.AUTH_FAILED


class RetryLater(BackendError):  # noqa: N818 - says what to do, which an ...Error name would not
    """The request failed for lack of a network, store, memory or time, and may succeed later as it is.

    Attributes:
        retry_after_s: seconds after which trying again makes sense, None when unknown.
    """

    retry = True
    default_reason = Reason.BUDGET_EXCEEDED

    def __init__(self, message: str, reason: Reason | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, reason)
        self.retry_after_s = retry_after_s
