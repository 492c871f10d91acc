"""Directories of untrained detectors, written once."""

import pytest

from tests.support import detector_directories as directories

CLASSES = ["cat", "dog", "walking man"]


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory):
    return directories.write_grounding_dino(tmp_path_factory.mktemp("detectors") / "GroundingDINO-T_infer")


@pytest.fixture(scope="session")
def yolo_world(tmp_path_factory):
    return directories.write_yolo_world(tmp_path_factory.mktemp("detectors") / "YOLO-Worldv2-L_infer")


@pytest.fixture(scope="session")
def picodet(tmp_path_factory):
    return directories.write_closed(tmp_path_factory.mktemp("detectors") / "PicoDet-S_infer", "PicoDet-S", CLASSES)
