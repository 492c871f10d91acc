"""Runs the core of the browser tests against several releases of Label Studio: ``make test-label-studio-versions``.

``python -m tests.e2e.label_studio_versions --folder . 1.22.0 1.23.0`` installs each that is not there yet into
``.venv-label-studio-<release>`` of the folder. The table in docs/troubleshooting.md says what came of it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

RELEASES = ("1.22.0", "1.23.0", "1.23.1", "1.23.2")
CORE = {
    "tests/e2e/test_browser_annotation.py": "becomes_a_mask or alt_click or one_list_of_labels",
    "tests/e2e/test_browser_demo.py": "newcomer_who_clicks",
    "tests/e2e/test_local_backends.py": "from_which_release",
}


def main() -> None:
    """Run the tests against the releases of the command line; exit with 1 if some fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="where the environments are kept")
    parser.add_argument("releases", nargs="*", default=RELEASES)
    arguments = parser.parse_args()
    failed = [release for release in arguments.releases if not passes(release, installed(release, arguments.folder))]
    print(f"Label Studio: {len(arguments.releases)} releases, failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


def installed(release: str, folder: Path) -> Path:
    """The interpreter of an environment with this release; an unfinished environment is built again."""
    venv = folder.absolute() / f".venv-label-studio-{release}"
    python, stamp = venv / "bin" / "python", venv / "stamp"
    if not stamp.exists():
        print(f"Installing Label Studio {release} into {venv}; this takes minutes ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--use-pep517"]
        subprocess.run([*pip, f"label-studio=={release}"], check=True)
        stamp.touch()
    return python


def passes(release: str, python: Path) -> bool:
    """Whether the core of the browser tests passes with it."""
    print(f"== Label Studio {release}", flush=True)
    command = [sys.executable, "-m", "pytest", "-m", "browser", "-rfEs", *CORE, "-k", " or ".join(CORE.values())]
    return not subprocess.run(command, env=os.environ | {"LABEL_STUDIO_PYTHON": str(python)}).returncode


if __name__ == "__main__":
    main()
