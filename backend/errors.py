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


class Kind(Enum):
    """What a reason means for those who wait for a mask."""

    HARMLESS = "there was nothing to answer"
    FAILURE = "a mask is missing"
    OUTAGE = "a mask is missing; the same holds for all images, and it may pass"


class Reason(str, Enum):
    """Why an answer is empty or an error was raised; log, metrics and status page report the same codes.

    >>> Reason("outside_image").meaning, Reason.OUTSIDE_IMAGE.remedy
    ('a prompt lies beside the image', 'draw the prompt again, on the image')
    """

    kind: Kind
    meaning: str
    remedy: str

    def __new__(cls, code: str, meaning: str = "", remedy: str = "", kind: Kind = Kind.FAILURE) -> "Reason":
        """Return the member with a code, which is its value."""
        reason = str.__new__(cls, code)
        reason._value_, reason.kind, reason.meaning, reason.remedy = code, kind, meaning, remedy
        return reason

    # fmt: off
    # There was nothing to segment.
    NO_CONTEXT = ("no_context", "a task was opened, nothing was clicked", "", Kind.HARMLESS)
    OPENED_TASK = ("opened_task", "one task alone was asked for, which may be its opening, and people have drawn on it",
        "select several tasks for masks of what they drew, or set PADDLE_SAM_ANSWER_OPENED_TASKS to always",
        Kind.HARMLESS)
    JUST_ANSWERED = ("just_answered",
        "the task was answered a moment ago, and a second answer would be stored beside that",
        "if it still has no prediction after half a minute, retrieve predictions again", Kind.HARMLESS)
    NO_PROMPT = ("no_prompt", "the prompt was deleted, or was an ordinary annotation", "", Kind.HARMLESS)
    ONLY_NEGATIVE_POINTS = ("only_negative_points", "nothing says where the object is",
        "click the object first, then what is not", Kind.HARMLESS)
    EMPTY_MASK = ("empty_mask", "the model finds nothing there",
        "draw a box, or click somewhere else on the object", Kind.HARMLESS)

    # The request.
    BAD_REQUEST = ("bad_request", "the caller does not speak as Label Studio does", "see who calls this address")
    BODY_TOO_LARGE = ("body_too_large", "the request carries too many saved masks", "raise PADDLE_SAM_MAX_BODY_MB")
    BAD_GEOMETRY = ("bad_geometry", "a prompt's numbers make no shape", "draw the prompt again")
    OUTSIDE_IMAGE = ("outside_image", "a prompt lies beside the image", "draw the prompt again, on the image")
    UNSUPPORTED_PROMPT = ("unsupported_prompt", "this kind of prompt is not read, or not by these weights",
        "prompt with keypoints, rectangles, ellipses, polygons or brush strokes")
    NOT_A_PROMPT = ("not_a_prompt", "the region is not used as a prompt; the log says why", "", Kind.HARMLESS)
    TOO_MANY_POINTS = ("too_many_points", "only the newest points of an object count", "start the object again")
    TOO_COMPLEX = ("too_complex", "the request asks for more work than one request may cause",
        "see the log: a config that repeats without end, or hundreds of objects, of which the newest are answered")
    SIZE_MISMATCH = ("size_mismatch",
        "browser and backend see pictures of different shape, or one many times the other",
        "see whether the file changed, and which size the browser shows at its address")
    NOT_IN_COCO_FILE = ("not_in_coco_file", "no image of the COCO file is named as the task's is",
        "compare the file's file_name with the task's data", Kind.HARMLESS)
    AMBIGUOUS_FILE_NAME = ("ambiguous_file_name", "several images of the COCO file are named as the task's is",
        "write their folders into file_name as well")
    UNKNOWN_LABEL = ("unknown_label", "a category of a COCO file, or a typed word, is no label of the labeling config",
        "add the label; rename the category, or type WORD=LABEL")
    NOTHING_FOUND = ("nothing_found", "the detector finds nothing that the words name",
        "use other words, or draw boxes", Kind.HARMLESS)
    UNKNOWN_WORD = ("unknown_word", "the detector cannot look for a word, which the log names",
        "use other words, or give the label a prompt in the detector's words")
    NO_DETECTOR = ("no_detector", "there is no detector to find words with, or not the same one as in other processes",
        "set PADDLE_SAM_DETECTOR, to the same for web processes and workers")

    # The labeling config.
    NO_LABEL_CONFIG = ("no_label_config", "the request carries no labeling config",
        "open the project's labeling settings and save")
    BAD_LABEL_CONFIG = ("bad_label_config", "the labeling config cannot be read",
        "the log names the tag; compare with the README")
    NO_IMAGE_TAG = ("no_image_tag", "the labeling config has no image of that name",
        'add <Image name="image" value="$image"/>')
    NO_OUTPUT_CONTROL = ("no_output_control", "nothing in the labeling config can hold a mask",
        'add a BrushLabels or PolygonLabels tag that says smart="false"')

    # The task and its image.
    NO_IMAGE_IN_TASK = ("no_image_in_task",
        "the task's data holds no address under the key that the config's Image names",
        "compare the config's value=\"$…\" with the task's data")
    ITEM_INDEX_OUT_OF_RANGE = ("item_index_out_of_range", "the task has fewer images than the prompt says",
        "reload the task")
    UNSUPPORTED_IMAGE_SOURCE = ("unsupported_image_source", "addresses of this kind are not read",
        "use http(s), uploads or a cloud storage")
    UNSUPPORTED_IMAGE_FORMAT = ("unsupported_image_format", "pictures of this format are not read",
        "convert them to JPEG, PNG, WebP or TIFF")
    IMAGE_NOT_FOUND = ("image_not_found", "the image's server does not have it",
        "see whether the file is still there, and the task's data spells its address right")
    IMAGE_TOO_LARGE = ("image_too_large", "the image is beyond the limits",
        "use smaller images, or raise PADDLE_SAM_MAX_IMAGE_BYTES or PADDLE_SAM_MAX_IMAGE_PIXELS, as the log says")
    IMAGE_UNREADABLE = ("image_unreadable", "image data is damaged or missing, or it is no image",
        "open its address in a browser; if nothing shows, give another image")

    # What an operator can change.
    AUTH_FAILED = ("auth_failed", "a token or password was refused",
        "the log says by whom: check the user of LABEL_STUDIO_API_KEY, the BASIC_AUTH settings or the image's server")
    FORBIDDEN_ADDRESS = ("forbidden_address", "images may not come from that address",
        "add its host to PADDLE_SAM_ALLOWED_HOSTS; if it is Label Studio, set PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL")
    FORBIDDEN_PATH = ("forbidden_path", "the path leads out of where the files of tasks lie",
        "check the task's data; of local files, PADDLE_SAM_LOCAL_FILES_ROOT")
    UNTRUSTED_CERTIFICATE = ("untrusted_certificate", "a server's certificate is refused",
        "set SSL_CERT_FILE to your authority's certificate (PEM); renew one that has expired or is for another name")
    LABEL_STUDIO_NOT_CONFIGURED = ("label_studio_not_configured",
        "it is not known where Label Studio is, or with which token to ask it",
        "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")

    # Temporary failures.
    IMAGE_FETCH_FAILED = ("image_fetch_failed", "the image's server failed",
        "try again; if it stays so, look at that server's log")
    LABEL_STUDIO_UNREACHABLE = ("label_studio_unreachable", "Label Studio does not answer",
        "try again; if it stays so, check LABEL_STUDIO_URL and its log", Kind.OUTAGE)
    BUDGET_EXCEEDED = ("budget_exceeded",
        "the image, or a slot of the decoder, was not ready in time; encoding continues",
        "click again; add workers or web processes if it happens often", Kind.OUTAGE)
    OVERLOADED = ("overloaded", "more requests or image files wait than there is room for",
        "raise THREADS or PADDLE_SAM_BUFFER_MB, or add web processes", Kind.OUTAGE)
    SUPERSEDED = ("superseded", "the annotator went on before it was ready", "", Kind.HARMLESS)
    STORE_UNAVAILABLE = ("store_unavailable", "Redis does not answer",
        "it is retried automatically; check Redis", Kind.OUTAGE)
    MODEL_NOT_READY = ("model_not_ready", "the model is loading, or cannot be loaded",
        "wait a moment, or see the log", Kind.OUTAGE)
    NO_WORKER = ("no_worker", "no worker is alive that encodes with this model",
        "start one with python -m backend worker, with the same REDIS_URL and PADDLE_SAM_WEIGHTS; then click again",
        Kind.OUTAGE)
    ENCODE_FAILED = ("encode_failed", "the image cannot be encoded", "a defect: please report it with the log")
    DECODE_FAILED = ("decode_failed", "the prompts cannot be decoded", "a defect: please report it with the log")
    OUT_OF_MEMORY = ("out_of_memory", "memory ran out", "take a smaller model, fewer WORKERS, or a larger machine")
    DEVICE_FAILED = ("device_failed", "the GPU failed or disappeared",
        "see nvidia-smi and the log; a worker ends by itself and is started again")

    # A defect of this program.
    INTERNAL_ERROR = ("internal_error", "this program has a defect", "please report it with the log")
    # fmt: on

    def __str__(self) -> str:
        return str(self.value)


class BackendError(Exception):
    """An error whose ``reason`` an empty answer can report; ``retry``: the same request may succeed later as it is.

    It can be copied, as several threads may raise it.
    """

    retry: bool = False
    default_reason: Reason = Reason.INTERNAL_ERROR

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = self.default_reason if reason is None else reason

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the constructor with `args`, which fails for a subclass that takes other arguments.
        return type(self).__new__, (type(self), *self.args), self.__dict__


def internal(error: Exception) -> BackendError:
    """Return the error that reports a defect of this program.

    >>> str(internal(KeyError("size")))
    "internal error: 'size'"
    """
    return BackendError(f"internal error: {error}")


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

    ``retry_after_s``: seconds after which trying again makes sense, None when unknown.
    """

    retry = True
    default_reason = Reason.BUDGET_EXCEEDED

    def __init__(self, message: str, reason: Reason | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, reason)
        self.retry_after_s = retry_after_s
