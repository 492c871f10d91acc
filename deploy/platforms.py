"""Whether every locked package has a wheel for each supported system: ``python deploy/platforms.py``.

For each system and Python, pip downloads the wheels of ``requirements.lock`` without installing them, half a gigabyte
each; it needs a registry. What has no wheel is named, and the exit code is then 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

LOCK = Path(__file__).parents[1] / "requirements.lock"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SYSTEMS = {
    # name: sys_platform, platform_system, platform_machine, pip's tags
    "linux-x86_64": ("linux", "Linux", "x86_64", ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64",
                     "manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64")),
    "linux-aarch64": ("linux", "Linux", "aarch64", ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64",
                      "manylinux2014_aarch64", "linux_aarch64")),
    "macos-arm64": ("darwin", "Darwin", "arm64", ("macosx_13_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64",
                    "macosx_11_0_universal2", "macosx_10_9_universal2")),
    "windows-x86_64": ("win32", "Windows", "AMD64", ("win_amd64",)),
}  # fmt: skip


def requirements(system: str, python: str) -> list[str]:
    """Return the locked versions for a system and a Python, as ``name==version``."""
    platform, name, machine, _ = SYSTEMS[system]
    environment = {
        "sys_platform": platform, "platform_system": name, "platform_machine": machine,
        "python_version": python, "python_full_version": f"{python}.9",
    }  # fmt: skip
    lines = [line for line in LOCK.read_text().splitlines() if line[:1].isalpha()]
    locked = [Requirement(line.rstrip(" \\")) for line in lines]
    return [
        f"{each.name}{each.specifier}" for each in locked if each.marker is None or each.marker.evaluate(environment)
    ]


def missing(system: str, python: str) -> list[str]:
    """Return the locked packages that have no wheel for a system and a Python."""
    tags = [word for tag in SYSTEMS[system][3] for word in ("--platform", tag)]
    without_wheel = []
    with tempfile.TemporaryDirectory() as folder:
        for each in requirements(system, python):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
            completed = subprocess.run(  # noqa: S603 - pip
                [*command, folder, "--python-version", python, *tags, each], capture_output=True, text=True, check=False
            )
            if completed.returncode:
                without_wheel.append(each)
    return without_wheel


def main() -> int:
    """Print a line for each system and Python; return 1 if a wheel is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, action="append", help="only this one; may be repeated")
    parser.add_argument("--python", choices=PYTHONS, action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    is_complete = True
    for system in options.system or SYSTEMS:
        for python in options.python or PYTHONS:
            lacking = missing(system, python)
            is_complete &= not lacking
            count = len(requirements(system, python))
            print(f"{system} Python {python}: {', '.join(lacking) or f'all {count} wheels'}", flush=True)  # noqa: T201
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
