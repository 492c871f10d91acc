"""The example of PaddleX's documentation, word for word but for the import: run with PaddleX and with this project.

Usage: python users_document.py paddlex|model MODEL_NAME MODEL_DIR IMAGE OUTPUT_DIR PROMPTS_JSON
"""

import importlib
import json
import sys


def main():
    library, model_name, model_dir, image, output_dir, prompts = sys.argv[1:]
    create_model = importlib.import_module(library).create_model
    model = create_model(model_name, model_dir=model_dir)
    output = model.predict(input=image, batch_size=1, prompts=json.loads(prompts))
    for res in output:
        res.print()
        res.save_to_img(f"{output_dir}/")
        res.save_to_json(f"{output_dir}/")
        res.save_to_json(f"{output_dir}/res.json", indent=2, ensure_ascii=True)
        kinds = {key: type(value).__name__ for key, value in res.items()}
        facts = {
            "kinds": kinds,
            "photo": res["input_img"].shape,
            "first pixel": res["input_img"][0, 0].tolist(),
            "masks": [str(mask.dtype) for mask in res["masks"]],
            "json": sorted(res.json["res"]),
            "img": {key: picture.size for key, picture in res.img.items()},
        }
        with open(f"{output_dir}/facts.json", "w") as stream:  # noqa: PTH123 - PaddleX's interpreter, PaddleX's style
            json.dump(facts, stream)


if __name__ == "__main__":
    main()
