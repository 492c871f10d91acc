"""Memory that manifests and compose request and allow follows from the measured table in docs/operations.md."""

import re
from pathlib import Path

import pytest
import yaml

from backend.composition.cluster import WORKER_MEMORY_MB
from backend.decoders.project_decoders import MOST_LOADED_BYTES
from backend.embeddings.encode import DECODED_AT_ONCE
from backend.segmentation.corrections import recent_answers
from backend.settings import MB, read
from tests.benchmarks import deployment
from tests.support.markdown import document

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="reads the source tree's own files")

PHOTO_BYTES = 300 * MB  # the most that decoding a photo of 100 megapixels takes, see "Memory of decoding"
VIT_H_BYTES = 3600 * MB
ROOMIEST = 1.25  # no request or limit is larger than this many times what it has to be


def measured(process):
    """The most that a process took with any of the weights, in bytes."""
    head = [cell.strip() for cell in deployment.HEADER.splitlines()[0].strip("|").split("|")]
    [table] = [each for each in document("docs/operations.md").tables if list(each.head) == head]
    rows = [dict(zip(head, row, strict=True)) for row in table.rows]
    assert [row["weights"].strip("`") for row in rows if row["process"] == process] == list(deployment.WEIGHTS)
    return max(float(row["at most"].removesuffix(" GB")) * 1e9 for row in rows if row["process"] == process)


def in_bytes(text):
    number, unit = re.fullmatch(r"(\d+)([mMgG])i?", text).groups()
    return int(number) * 1024 ** {"m": 2, "g": 3}[unit.lower()]


def container(name):
    manifest = next(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text()))
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    return container


def needs(name):
    """What a container's request and its limit have to cover, in bytes."""
    settings = read({each["name"]: each["value"] for each in container(name)["env"]})
    if name == "web":
        request = measured("web process") + settings.memory_cache_mb * MB
        return request, request + settings.buffer_bytes + recent_answers.MAX_BYTES + MOST_LOADED_BYTES
    request = measured("worker")
    return request, request + settings.buffer_bytes + DECODED_AT_ONCE * PHOTO_BYTES + WORKER_MEMORY_MB * MB


@pytest.mark.parametrize("name", ["web", "worker"])
@pytest.mark.parametrize(("kind", "field"), [("requests", 0), ("limits", 1)])
def test_a_manifests_memory_is_what_was_measured_and_what_may_come_on_top(name, kind, field):
    needed = needs(name)[field]
    assert needed <= in_bytes(container(name)["resources"][kind]["memory"]) <= ROOMIEST * needed


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_limit_of_compose_is_the_manifests_the_workers_with_vit_h(name):
    text = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][name]["mem_limit"]
    default = re.fullmatch(r"\$\{\w+:-(\w+)\}", text)[1]
    needed = needs(name)[1] + (VIT_H_BYTES - measured("worker") if name == "worker" else 0)
    assert needed <= in_bytes(default) <= ROOMIEST * needed
