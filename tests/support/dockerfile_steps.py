"""Runs the Dockerfile's steps without Docker, in a folder of its own: ``python -m tests.support.dockerfile_steps``.

Every path of the image is put below that folder, ``pip`` and ``python`` are those of the virtual environment that the
first step makes, and each step's time and size are told. What only the image's own root could do (packages of the
distribution, users) is named and left out, and so is the GPU's stage, unless ``--gpu`` asks for it. At the end what was
made is started as the image would start it, and asked what the image's health check asks.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import START_S, free_port

ROOT = Path(__file__).parents[2]
OF_THE_IMAGE = ("/venv", "/build", "/app", "/weights", "/cache")
ONLY_ROOT = ("apt-get", "useradd", "rm")


@dataclass(frozen=True)
class Step:
    """One instruction.

    Attributes:
        stage: the stage it belongs to, empty before the first.
        name: ``RUN``, ``COPY`` and so on.
        text: what follows, on one line.
    """

    stage: str
    name: str
    text: str


def parse(dockerfile: str) -> Iterator[Step]:
    """Yield the instructions of a Dockerfile; comments are left out, continued lines are joined.

    Raises:
        ValueError: a line is none, or a stage has no name.
    """
    stage = ""
    lines = "\n".join(line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"([A-Z]+)\s+(.+?)\s*", line)
        if not match:
            raise ValueError(f"expected an instruction, got {line!r}")
        name, text = match.groups()
        if name == "FROM":
            names = re.fullmatch(r"\S+ AS (\S+)", text)
            if not names:
                raise ValueError(f"expected a stage with a name, got {line!r}")
            stage = names[1]
        yield Step(stage, name, text)


def variables(text: str, known: Mapping[str, str]) -> str:
    """Fill in ``$NAME`` and ``${NAME}``."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: known.get(match[1] or match[2], ""), text)


def assignments(text: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an ``ENV`` or ``ARG`` sets."""
    return {name: variables(value, known) for name, _, value in (word.partition("=") for word in shlex.split(text))}


@dataclass
class Image:
    """What the steps make, below one folder; all stages share it, since none writes where another does.

    Attributes:
        root: that folder.
        context: where ``COPY`` copies from.
        environ: what ``ENV`` and ``ARG`` have set, in the image's own paths.
        start: the words of ``ENTRYPOINT`` and ``CMD``.
        check: the words of ``HEALTHCHECK``.
    """

    root: Path
    context: Path
    environ: dict[str, str] = field(default_factory=dict)
    start: tuple[str, ...] = ()
    check: tuple[str, ...] = ()

    def below(self, text: str) -> str:
        """Put the image's own paths below the folder."""
        return re.sub(
            rf"(?<![\w/.])({'|'.join(OF_THE_IMAGE)})(?=[/:\s]|$)", lambda match: f"{self.root}{match[1]}", text
        )

    def environment(self, **more: str) -> dict[str, str]:
        """What a process in it is given; of the caller's environment only what pip needs to reach its index."""
        inherited = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
        return inherited | {name: self.below(value) for name, value in self.environ.items()} | more

    def run(self, text: str) -> list[str]:
        """Run a ``RUN``, and return the commands that were left out."""
        left_out = []
        for command in text.split(" && "):
            command = self.below(command.strip())
            first = shlex.split(command)[0]
            if first in ONLY_ROOT:
                left_out.append(command)
                continue
            if first == "install":
                command = re.sub(r" -o \S+", "", command)
            subprocess.run(["sh", "-c", command], cwd=self.root, env=self.environment(), check=True)
        return left_out

    def copy(self, text: str) -> None:
        """Do what a ``COPY`` from the context does; what comes from another stage has to be there already."""
        *sources, target = text.split()
        if sources[0].startswith("--from="):
            assert Path(self.below(sources[1])).exists(), text
            return
        path = Path(self.below(target))
        for source in (self.context / name for name in sources):
            if source.is_dir():
                shutil.copytree(source, path, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"), dirs_exist_ok=True)
            else:
                assert target.endswith("/"), text
                path.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, path)

    def do(self, step: Step) -> list[str]:
        """Do one step; return the commands that were left out."""
        if step.name == "RUN":
            return self.run(variables(step.text, {k: v for k, v in self.environ.items() if k != "PATH"}))
        if step.name == "COPY":
            self.copy(step.text)
        elif step.name in ("ENV", "ARG"):
            self.environ |= assignments(step.text, self.environ | {"PATH": self.environ.get("PATH", os.defpath)})
        elif step.name in ("ENTRYPOINT", "CMD"):
            self.start += tuple(json.loads(step.text))
        elif step.name == "HEALTHCHECK":
            self.check = tuple(json.loads(step.text.partition("CMD ")[2]))
        return []

    def size_mb(self) -> float:
        return sum(path.lstat().st_size for path in self.root.rglob("*") if not path.is_dir()) / 1e6

    def serve_and_check(self) -> float:
        """Start it as the image does and return after how many seconds its health check was content.

        Raises:
            RuntimeError: it ended, or was not content in time.
        """
        environ = self.environment(PORT=str(free_port()), HOST="127.0.0.1", HOME=str(self.root))
        python = [self.below("/venv/bin/python")]
        assert self.start[0] == self.check[0] == "python"
        started_at = time.monotonic()
        with subprocess.Popen([*python, *self.start[1:]], cwd=self.below("/app"), env=environ) as process:
            try:
                while process.poll() is None and time.monotonic() - started_at < START_S:
                    answer = subprocess.run([*python, *self.check[1:]], cwd=self.below("/app"), env=environ)
                    if answer.returncode == 0:
                        return time.monotonic() - started_at
                raise RuntimeError(f"the service did not become healthy; exit code {process.poll()}")
            finally:
                process.terminate()


def build(folder: Path, *, has_gpu: bool = False) -> Iterator[str]:
    """Run the steps in a folder, and yield a line about each that did something."""
    image = Image(folder, ROOT, {"PATH": f"{folder}/bin:{os.defpath}"})
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    size = image.size_mb()
    for step in parse((ROOT / "Dockerfile").read_text()):
        if step.stage == "build-gpu" and not has_gpu:
            continue
        if "--from=build-gpu" in step.text and not has_gpu:
            continue
        started_at = time.monotonic()
        left_out = image.do(step)
        if step.name in ("RUN", "COPY") and "--from=" not in step.text:
            grown, size = image.size_mb() - size, image.size_mb()
            yield f"{step.stage:10} {time.monotonic() - started_at:6.1f} s {grown:8.1f} MB  {step.name} {step.text}"
            yield from (f"{'':28}  left to a real build: {command}" for command in left_out)
    yield f"healthy after {image.serve_and_check():.1f} s; {size:.1f} MB beside the base image"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="the GPU's stage too: gigabytes from Paddle's own index")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        for line in build(Path(name), has_gpu=options.gpu):
            print(line, flush=True)


if __name__ == "__main__":
    main()
