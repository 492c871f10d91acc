"""What importing the model and asking for help must not do."""

import subprocess
import sys

import pytest

HEAVY = ("paddle", "cv2", "torch", "httpx")


def modules_after(code):
    """The modules that a fresh interpreter holds after running ``code``."""
    completed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(completed.stdout.splitlines())


def test_importing_the_package_imports_nothing_that_takes_time():
    modules = modules_after("import model")
    assert "model" in modules
    assert not modules & {*HEAVY, "numpy", "PIL"}


@pytest.mark.parametrize(
    "code",
    [
        "from model import create_model",
        "from model import SamResult, SamModel, Prompt, Embedding, load",
        "import model.weights, model.paddlex.inputs, model.paddlex.prompts, model.paddlex.result",
        "from model import AutomaticMask, AutomaticMaskGenerator, AutomaticSettings",
        "import model.coco.rle, model.coco.writer, model.automatic",
    ],
)
def test_public_names_do_not_import_paddle(code):
    assert not modules_after(code) & {"paddle", "torch"}


@pytest.mark.parametrize("command", [[], ["segment"], ["download"], ["inspect"], ["export"], ["benchmark"]])
def test_help_imports_neither_paddle_nor_numpy(command):
    arguments = [*command, "--help"]
    modules = modules_after(
        "from model.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0"
    )
    assert "model.cli" in modules
    assert not modules & {*HEAVY, "numpy", "PIL"}


def test_an_unknown_public_name_is_an_attribute_error():
    import model

    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        _ = model.create_modle


def test_every_name_in_all_can_be_had():
    import model

    assert all(getattr(model, name).__name__ == name for name in model.__all__)
