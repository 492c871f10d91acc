"""Builds the wheel, installs it, and tests it away from the source tree: ``python -m tests.support.wheel``.

What the wheel depends on is lent by the environment that runs this, which takes seconds; with ``--full``
pip installs it, as it does for a user.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "requirements*.txt", "model", "backend")
TESTS = (
    "backend/web/test_gunicorn_server.py",  # takes longest
    "repository/test_packaging.py",
    "backend/test_settings.py",
    "backend/cli/test_cli.py",
    "model/cli/test_cli.py",
    "backend/web/test_status_page.py",
    "backend/web/test_try_page.py",
)
SELECTION = "not reference and not browser and not slow"


def build(folder: Path) -> Path:
    """Return the wheel that comes out of the source distribution that comes out of this tree."""
    source = folder / "source"
    source.mkdir(parents=True)
    for pattern in SOURCES:
        for path in ROOT.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, sdist], cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, *, is_full: bool) -> Path:
    """Return the interpreter of a fresh environment that has the wheel."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    if is_full:
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[dev]"], check=True)
        return python
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*pip, wheel], check=True)
    return python


def test(python: Path, folder: Path) -> int:
    """Run the tests that are worth it with that interpreter, away from the source tree; return pytest's exit code."""
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    options = ["-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", SELECTION]
    chosen = [f"tests/{name}" for name in TESTS]
    return subprocess.run([python, "-m", "pytest", *options, *chosen], cwd=folder, env=environ).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="let pip install what the wheel depends on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # some tests run the commands as another user
        wheel = build(folder / "dist")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        away = folder / "away"
        away.mkdir()
        return test(install(wheel, folder / "venv", is_full=options.full), away)


if __name__ == "__main__":
    sys.exit(main())
