"""Commands in the documentation can be typed as they stand: the command, its options and its variables exist."""

import importlib.util
import re
import shlex
from collections.abc import Iterator

import click
import pytest
import yaml

from backend.cli.main import main as backend_command
from backend.settings import NAMES, read
from model.cli import main as model_command
from tests.support.markdown import ROOT, Document, documents

GROUPS = {"backend": backend_command, "model": model_command}
INSTALLED = {"paddle-sam-backend": "backend", "paddle-sam": "model"}
LABEL_STUDIOS_OWN = {"USE_DEFAULT_BANNED_SUBNETS"}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
MAKE_VARIABLES = {"CACHE", "PYTHON", "REQUIREMENTS", "UPGRADE", "WEIGHTS"}


def typed(page: Document) -> Iterator[str]:
    """The commands of a page: after the prompt in console blocks, and in the text as code."""
    for block in page.blocks:
        if block.language == "console":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    yield line.removeprefix("$ ")
    for word in page.words_in_code:
        if re.match(r"([A-Z_]+=\S* )*(\S*python\S* -m|make|paddle-sam\S*|docker compose) \S", word):
            yield word


COMMANDS = [(page.name, command) for page in documents() for command in typed(page)]


def parts(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a command is given, and its words; ``…`` stands for what the reader fills in."""
    words = shlex.split(command, comments=True)
    environ = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environ[name] = value
    return environ, words


def check_click(group: click.Command, words: list[str]) -> None:
    """Parse the words as the command would, down to the last subcommand; run nothing."""
    context = click.Context(group, info_name="command")
    while isinstance(group, click.Group):
        if not words:
            return  # shows the help
        name, *words = words
        if name in ("--help", "-h"):
            return
        command = group.get_command(context, name)
        assert command is not None, f"there is no command {name}"
        group = command
    if "--help" in words or "-h" in words:
        return
    if not words and any(parameter.required for parameter in group.params):
        return  # the text only names the command
    group.make_context(group.name, words, parent=context)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert words
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable:
            assert name in MAKE_VARIABLES
            assert re.search(rf"^{name} \?=", makefile, re.MULTILINE)
        else:
            assert re.search(rf"^{name}:.*## ", makefile, re.MULTILINE), f"make {name} is not a command"


def check_compose(words: list[str]) -> None:
    profiles = {name for service in COMPOSE["services"].values() for name in service.get("profiles", [])}
    for flag, value in zip(words, [*words[1:], ""], strict=True):
        if flag == "-f":
            assert (ROOT / value).is_file()
        if flag == "--profile":
            assert value in profiles
        if flag == "--scale":
            assert value.split("=")[0] in COMPOSE["services"]
        if flag == "exec":
            assert value in COMPOSE["services"]


def check_command(command: str) -> None:
    environ, words = parts(command)
    ours = {name: value for name, value in environ.items() if name not in LABEL_STUDIOS_OWN}
    assert set(ours) <= set(NAMES)
    read({name: value for name, value in ours.items() if not re.search("[<…]", value)})
    program, *rest = words
    if program.rpartition("/")[2].startswith("python") and rest[:1] == ["-m"]:
        module, *rest = rest[1:]
        if module in GROUPS:
            check_click(GROUPS[module], rest)
        else:
            assert importlib.util.find_spec(module) is not None
    elif program in INSTALLED:
        check_click(GROUPS[INSTALLED[program]], rest)
    elif program == "make":
        check_make(rest)
    elif (program, *rest[:1]) == ("docker", "compose"):
        check_compose(rest[1:])
        if "python" in rest:
            check_command(shlex.join(rest[rest.index("python") :]))
    else:
        assert program in ("label-studio", "curl", "pip", "uvx", "pipx", "git", "cd", "source", "rm", "redis-cli"), (
            f"what is {program}?"
        )


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[f"{name}: {command[:60]}" for name, command in COMMANDS])
def test_a_command_in_the_documentation_can_be_typed(name, command):
    check_command(command)


def test_the_documentation_is_full_of_commands():
    assert {command.split()[0] for _, command in COMMANDS} >= {"make", "python", "docker"}
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m backend sreve",
        "python -m backend serve --prot 9090",
        "python -m backend doctor --project first",
        "python -m model segment photo.jpg --box 1,2,3 --out masks",
        "PADDLE_SAM_WIGHTS=demo make run",
        "PORT=x make run",
        "make rnu",
        "docker compose --profile labelstudio up",
        "python -m tests.nothing",
    ],
)
def test_a_command_that_would_fail_is_found(wrong):
    with pytest.raises((AssertionError, click.ClickException, ValueError, ModuleNotFoundError)):
        check_command(wrong)


def test_every_option_that_the_text_names_exists():
    commands = [command for group in GROUPS.values() for command in group.commands.values()]
    known = {word for command in commands for option in command.params for word in option.opts}
    for page in documents():
        for word in page.words_in_code:
            if word.startswith("--") and page.path.parent.name != "demo":  # its scripts have options of their own
                assert word.split()[0] in known, f"{page.name}: {word}"


def test_every_command_of_the_product_is_in_the_documentation():
    documented = {tuple(parts(command)[1][1:4]) for _, command in COMMANDS}
    known = {("-m", package, name) for package, group in GROUPS.items() for name in group.commands}
    assert known - documented == set()
