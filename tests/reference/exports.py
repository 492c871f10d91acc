"""What Label Studio's own exporter (label-studio-sdk's ``Converter``) makes of annotations, run where the SDK is."""

from tests.reference import sdk

SCRIPT = """
import glob, json, logging, os, tempfile
logging.disable(logging.CRITICAL)
import numpy as np
from label_studio_sdk.converter import Converter

def count(folder, kind):
    if kind in ("COCO", "BRUSH_TO_COCO"):
        found = json.load(open(glob.glob(folder + "/*.json")[0]))
        names = {one["id"]: one["name"] for one in found["categories"]}
        return [["mask" if one["segmentation"] else "box", names[one["category_id"]]] for one in found["annotations"]]
    if kind.startswith("YOLO"):
        names = open(os.path.join(folder, "classes.txt")).read().split("\\n")
        lines = [line.split() for path in glob.glob(folder + "/labels/**/*.txt", recursive=True) for line in open(path)]
        return [["mask" if len(line) > 9 else "box", names[int(line[0])]] for line in lines]
    if kind == "BRUSH_TO_PNG":
        return [["mask", os.path.basename(path)] for path in glob.glob(folder + "/*.png")]
    if kind == "BRUSH_TO_NUMPY":
        return [["mask", os.path.basename(path)] for path in glob.glob(folder + "/*.npy")]
    found = json.load(open(os.path.join(folder, "result.json")))
    return [["region", one["type"]] for task in found for note in task["annotations"] for one in note["result"]]

answer = []
for config, result in question:
    here = {}
    for kind in ("JSON", "COCO", "YOLO", "YOLO_OBB", "BRUSH_TO_PNG", "BRUSH_TO_NUMPY", "BRUSH_TO_COCO"):
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "in.json")
            task = {"id": 1, "data": {"image": "/data/upload/1/a.jpg", "pages": ["/data/upload/1/a.jpg"],
                                      "before": "/data/upload/1/a.jpg", "after": "/data/upload/1/a.jpg"},
                    "annotations": [{"id": 1, "completed_by": {"email": "a@b.c"}, "result": result}]}
            json.dump([task], open(source, "w"))
            out = os.path.join(folder, "out")
            os.makedirs(out)
            try:
                Converter(config=config, project_dir=folder, download_resources=False).convert(
                    source, out, kind, is_dir=False)
                here[kind] = sorted(count(out, kind))
            except Exception as error:
                here[kind] = [["error", type(error).__name__ + ": " + str(error)[:80]]]
    answer.append(here)
"""


def exported(configs_with_results: list[tuple[str, list[dict]]]) -> list[dict[str, list[list[str]]]]:
    """Return what each format holds, by its name, for each labeling config and the regions of one annotation."""
    answer = sdk.run(SCRIPT, configs_with_results)
    assert isinstance(answer, list)
    return answer
