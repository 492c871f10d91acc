"""The weights that are known by name: one entry for each, and everything there is to know before a download.

Meta publishes six digits of each file's MD5, in the file's name. The SHA-256 are those of the files with these MD5 as
the model registries of other projects (micro-sam among them) carry them. Nothing is published for PaddleX's archives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.config import (
    SamConfig,
    demo,
    mobile_sam,
    sam2_1_hiera_base_plus,
    sam2_1_hiera_large,
    sam2_1_hiera_small,
    sam2_1_hiera_tiny,
    vit_b,
    vit_h,
    vit_l,
)
from model.demo import DETECTOR, DETECTOR_FOLDER
from model.weights.parameters import CAPABILITIES, Capability

Family = Literal["demo", "sam", "mobile_sam", "sam2.1"]

DEMO = "demo"
"""The model that ships: for trying things out, not for labelling photographs."""
DEMO_WEIGHTS = Path(__file__).parents[1] / "demo" / "demo.safetensors"

SHIPPED: Mapping[str, Path] = {DEMO: DEMO_WEIGHTS, DETECTOR: DETECTOR_FOLDER}
"""Where those lie that need no download, by name."""

_META = "https://dl.fbaipublicfiles.com/segment_anything"
_META_2_1 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
_MOBILE = "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights"
_PADDLEX = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_inference_model/paddle3.0.0"


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        url: of a single file, or of a tar with a PaddleX inference directory inside.
        sha256: of the file at the URL, None where its publisher gives none: then that of the first download
            is kept, and a later one has to have it too.
        holds: weights of SAM, or a detector.
    """

    url: str
    sha256: str | None = None
    holds: Literal["sam", "detector"] = "sam"

    def __post_init__(self) -> None:
        if self.sha256 is not None and len(self.sha256) != 64:
            raise ValueError(f"sha256: expected 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def is_archive(self) -> bool:
        """Whether the URL gives a tar."""
        return self.file_name.endswith(".tar")

    @property
    def stored_name(self) -> str:
        """What the weights are called in the folder."""
        return self.file_name.removesuffix(".tar")


@dataclass(frozen=True)
class Entry:
    """Weights that have a name.

    Attributes:
        name: what commands and settings call them.
        family: the kind of network.
        megabytes: size of the file that is downloaded, in 10^6 bytes.
        input_size: side of the square that the network sees, pixels; None where only the file has it.
        source: where they are published; None for those that ship.
        config: the network that the name stands for; None where it stands for what the weights take, in any size.
        capabilities: which prompts they take, and whether with a score.
        licence: SPDX identifier.
    """

    name: str
    family: Family
    megabytes: float
    input_size: int | None
    source: Source | None
    config: Callable[[], SamConfig] | None = None
    capabilities: tuple[Capability, ...] = CAPABILITIES
    licence: str = "Apache-2.0"


ENTRIES: tuple[Entry, ...] = (
    Entry(DEMO, "demo", 6.4, 256, None, demo),
    Entry(
        "mobile_sam", "mobile_sam", 40.7, 1024,
        Source(f"{_MOBILE}/mobile_sam.pt", "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"),
        mobile_sam,
    ),
    Entry(
        "sam_vit_b", "sam", 375.0, 1024,
        Source(f"{_META}/sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
        vit_b,
    ),
    Entry(
        "sam_vit_l", "sam", 1249.5, 1024,
        Source(f"{_META}/sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
        vit_l,
    ),
    Entry(
        "sam_vit_h", "sam", 2564.6, 1024,
        Source(f"{_META}/sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
        vit_h,
    ),
    Entry("SAM-H_box", "sam", 2433.7, None, Source(f"{_PADDLEX}/SAM-H_box_infer.tar"), capabilities=("boxes",)),
    Entry("SAM-H_point", "sam", 2433.7, None, Source(f"{_PADDLEX}/SAM-H_point_infer.tar"), capabilities=("points",)),
    Entry(
        "sam2.1_hiera_tiny", "sam2.1", 156.0, 1024,
        Source(
            f"{_META_2_1}/sam2.1_hiera_tiny.pt", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"
        ),
        sam2_1_hiera_tiny,
    ),
    Entry(
        "sam2.1_hiera_small", "sam2.1", 184.4, 1024,
        Source(
            f"{_META_2_1}/sam2.1_hiera_small.pt", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"
        ),
        sam2_1_hiera_small,
    ),
    Entry(
        "sam2.1_hiera_base_plus", "sam2.1", 323.6, 1024,
        Source(
            f"{_META_2_1}/sam2.1_hiera_base_plus.pt",
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        ),
        sam2_1_hiera_base_plus,
    ),
    Entry(
        "sam2.1_hiera_large", "sam2.1", 898.1, 1024,
        Source(
            f"{_META_2_1}/sam2.1_hiera_large.pt", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"
        ),
        sam2_1_hiera_large,
    ),
)  # fmt: skip
"""All of them, the smallest of each family first."""

NAMED: Mapping[str, Entry] = {entry.name: entry for entry in ENTRIES}
"""The same by name."""

SOURCES: Mapping[str, Source] = {name: entry.source for name, entry in NAMED.items() if entry.source is not None}
"""Where each of those that can be downloaded comes from."""


@dataclass(frozen=True)
class DetectorEntry:
    """A detector that has a name: it turns words into boxes.

    Attributes:
        name: what commands and settings call it; of those that are published PaddleX's name.
        megabytes: size of the file that is downloaded, in 10^6 bytes, as PaddleX's documentation gives it.
        source: where it is published; None for the one that ships.
        licence: SPDX identifier of the weights' licence.
        family: as `Entry` has it.
        input_size: likewise; its programs take pictures of several sizes.
        capabilities: what it takes.
    """

    name: str
    megabytes: float
    source: Source | None
    licence: str
    family: Literal["detector"] = "detector"
    input_size: None = None
    capabilities: tuple[Literal["words"], ...] = ("words",)


DETECTORS: Mapping[str, DetectorEntry] = {
    entry.name: entry
    for entry in (
        DetectorEntry(
            "GroundingDINO-T", 658.3, Source(f"{_PADDLEX}/GroundingDINO-T_infer.tar", holds="detector"), "Apache-2.0"
        ),
        DetectorEntry(
            "YOLO-Worldv2-L", 421.4, Source(f"{_PADDLEX}/YOLO-Worldv2-L_infer.tar", holds="detector"), "GPL-3.0-only"
        ),
        DetectorEntry(DETECTOR, 6.5, None, "Apache-2.0"),
    )
}
"""The detectors that take any words, by name. Those with fixed classes are given by their directories."""

DETECTOR_SOURCES: Mapping[str, Source] = {
    name: entry.source for name, entry in DETECTORS.items() if entry.source is not None
}
"""Where each of those that can be downloaded comes from."""
