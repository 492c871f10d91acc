"""What each reason means and what to do about it, for the status page and the doctor."""

from backend.errors import Reason

HARMLESS = frozenset(
    (
        Reason.NO_CONTEXT,
        Reason.OPENED_TASK,
        Reason.JUST_ANSWERED,
        Reason.NO_PROMPT,
        Reason.NOT_A_PROMPT,
        Reason.ONLY_NEGATIVE_POINTS,
        Reason.EMPTY_MASK,
        Reason.SUPERSEDED,
    )
)
"""Reasons why there was nothing to answer; every other reason means that an expected mask is missing."""

_REMEDIES: dict[Reason, tuple[str, str]] = {
    Reason.NO_CONTEXT: ("a task was opened, nothing was clicked", ""),
    Reason.OPENED_TASK: (
        "one task alone was asked for, which may be its opening, and people have drawn on it",
        "select several tasks for masks of what they drew, or set PADDLE_SAM_ANSWER_OPENED_TASKS to always",
    ),
    Reason.JUST_ANSWERED: (
        "the task was answered a moment ago, and a second answer would be stored beside that",
        "if it still has no prediction after half a minute, retrieve predictions again",
    ),
    Reason.NO_PROMPT: ("the prompt was deleted, or was an ordinary annotation", ""),
    Reason.NOT_A_PROMPT: ("a region that draws nothing came along", ""),
    Reason.ONLY_NEGATIVE_POINTS: ("nothing says where the object is", "click the object first, then what is not"),
    Reason.EMPTY_MASK: ("the model finds nothing there", "draw a box, or click somewhere else on the object"),
    Reason.SUPERSEDED: ("the annotator went on before it was ready", ""),
    Reason.BAD_REQUEST: ("the caller does not speak as Label Studio does", "see who calls this address"),
    Reason.BODY_TOO_LARGE: ("the request carries too many saved masks", "raise PADDLE_SAM_MAX_BODY_MB"),
    Reason.BAD_GEOMETRY: ("a prompt's numbers make no shape", "draw the prompt again"),
    Reason.OUTSIDE_IMAGE: ("a prompt lies beside the image", "draw the prompt again, on the image"),
    Reason.UNSUPPORTED_PROMPT: (
        "this kind of prompt is not read, or not by these weights",
        "prompt with keypoints, rectangles, ellipses, polygons or brush strokes",
    ),
    Reason.TOO_MANY_POINTS: ("only the newest points of an object count", "begin the object anew"),
    Reason.TOO_COMPLEX: (
        "the request asks for more work than one request may cause",
        "see the log: a config that repeats without end, or hundreds of objects, of which the newest are answered",
    ),
    Reason.SIZE_MISMATCH: (
        "browser and backend see pictures of different shape, or one many times the other",
        "see whether the file changed, and which size the browser shows at its address",
    ),
    Reason.NOT_IN_COCO_FILE: (
        "no image of the COCO file is named as the task's is",
        "compare the file's file_name with the task's data",
    ),
    Reason.AMBIGUOUS_FILE_NAME: (
        "several images of the COCO file are named as the task's is",
        "write their folders into file_name as well",
    ),
    Reason.UNKNOWN_LABEL: (
        "a category of the COCO file is no label of the labeling config",
        "add the label, or rename the category",
    ),
    Reason.NO_LABEL_CONFIG: ("the request carries no labeling config", "open the project's labeling settings and save"),
    Reason.BAD_LABEL_CONFIG: ("the labeling config cannot be read", "the log names the tag; compare with the README"),
    Reason.NO_IMAGE_TAG: ("the labeling config has no image of that name", 'add <Image name="image" value="$image"/>'),
    Reason.NO_OUTPUT_CONTROL: (
        "nothing in the labeling config can hold a mask",
        'add a BrushLabels or PolygonLabels tag that says smart="false"',
    ),
    Reason.NO_IMAGE_IN_TASK: (
        "the task's data holds no address under the key that the config's Image names",
        "compare the config's value=\"$…\" with the task's data",
    ),
    Reason.ITEM_INDEX_OUT_OF_RANGE: ("the task has fewer images than the prompt says", "reload the task"),
    Reason.UNSUPPORTED_IMAGE_SOURCE: ("addresses of this kind are not read", "use http(s), uploads or a cloud storage"),
    Reason.UNSUPPORTED_IMAGE_FORMAT: (
        "pictures of this format are not read",
        "convert them to JPEG, PNG, WebP or TIFF",
    ),
    Reason.IMAGE_NOT_FOUND: (
        "the image's server does not have it",
        "see whether the file is still there, and the task's data spells its address right",
    ),
    Reason.IMAGE_TOO_LARGE: (
        "the image is beyond the limits",
        "smaller images, or formats as the log says; PADDLE_SAM_MAX_IMAGE_BYTES, PADDLE_SAM_MAX_IMAGE_PIXELS higher",
    ),
    Reason.IMAGE_UNREADABLE: (
        "image data is damaged or missing, or it is no image",
        "open its address in a browser; if nothing shows, give another image",
    ),
    Reason.AUTH_FAILED: (
        "a token or password was refused",
        "the log says by whom: check the user of LABEL_STUDIO_API_KEY, the BASIC_AUTH settings or the image's server",
    ),
    Reason.FORBIDDEN_ADDRESS: (
        "images may not come from that address",
        "add its host to PADDLE_SAM_ALLOWED_HOSTS; if it is Label Studio, set PADDLE_SAM_LABEL_STUDIO_PUBLIC_URL",
    ),
    Reason.FORBIDDEN_PATH: (
        "the path leads out of where the files of tasks lie",
        "check the task's data; of local files, PADDLE_SAM_LOCAL_FILES_ROOT",
    ),
    Reason.UNTRUSTED_CERTIFICATE: (
        "a server's certificate is refused",
        "set SSL_CERT_FILE to your authority's certificate (PEM); renew one that has expired or is for another name",
    ),
    Reason.LABEL_STUDIO_NOT_CONFIGURED: (
        "it is not known where Label Studio is, or with which token to ask it",
        "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY",
    ),
    Reason.IMAGE_FETCH_FAILED: ("the image's server failed", "try again; if it stays so, look at that server's log"),
    Reason.LABEL_STUDIO_UNREACHABLE: (
        "Label Studio does not answer",
        "try again; if it stays so, check LABEL_STUDIO_URL and its log",
    ),
    Reason.BUDGET_EXCEEDED: (
        "the image, or a turn at the decoder, did not come in time; the image goes on",
        "click again; add workers or web processes if it happens often",
    ),
    Reason.OVERLOADED: (
        "more requests or image files wait than there is room for",
        "raise THREADS or PADDLE_SAM_BUFFER_MB, or add web processes",
    ),
    Reason.STORE_UNAVAILABLE: ("Redis does not answer", "it is tried again by itself; look at Redis"),
    Reason.MODEL_NOT_READY: ("the model is loading, or cannot be loaded", "wait a moment, or see the log"),
    Reason.NO_WORKER: (
        "no worker is alive that encodes with this model",
        "start one with python -m backend worker, with the same REDIS_URL and PADDLE_SAM_WEIGHTS; then click again",
    ),
    Reason.ENCODE_FAILED: ("the image cannot be encoded", "a defect: please report it with the log"),
    Reason.DECODE_FAILED: ("the prompts cannot be decoded", "a defect: please report it with the log"),
    Reason.OUT_OF_MEMORY: ("memory ran out", "take a smaller model, fewer WORKERS, or a larger machine"),
    Reason.INTERNAL_ERROR: ("this program has a defect", "please report it with the log"),
}


def meaning(reason: Reason) -> str:
    """Return in a few words what has happened.

    >>> meaning(Reason.OUTSIDE_IMAGE)
    'a prompt lies beside the image'
    """
    return _REMEDIES[reason][0]


def remedy(reason: Reason) -> str:
    """Return what to do about it; empty where nothing needs to be done.

    >>> remedy(Reason.OUTSIDE_IMAGE)
    'draw the prompt again, on the image'
    """
    return _REMEDIES[reason][1]
