"""Help texts: they name every command, option, variable and default, and each default is the true one."""

import re

import click
import pytest
from click.testing import CliRunner

from backend.cli import settings_help
from backend.cli.main import main as backend
from backend.settings import NAMES, Settings, read
from model.cli import main as model

NOTE = re.compile(r"\[(?:env: (?P<env>[A-Z_, ]+))?(?:; )?(?:default: (?P<default>[^\]]+))?\]")
COMMANDS = [
    pytest.param(name, command, id=f"{name} {command.name}")
    for name, group in (("backend", backend), ("model", model))
    for command in group.commands.values()
]
OPTIONS = [
    pytest.param(command.values[0], option, id=f"{command.id} {option.opts[0]}")
    for command in COMMANDS
    for option in command.values[1].params
    if isinstance(option, click.Option)
]


def environment(option):
    """The variables and the default that an option's help names."""
    note = NOTE.search(option.help or "")
    names = note["env"].split(", ") if note and note["env"] else []
    return names, note["default"] if note else None


@pytest.mark.parametrize(("package", "command"), COMMANDS)
def test_a_command_says_what_it_does_in_the_list_and_in_its_own_help(package, command):
    group = {"backend": backend, "model": model}[package]
    listed = CliRunner().invoke(group, ["--help"])
    assert re.search(rf"^  {command.name} +[A-Z].+\.$", listed.output, re.MULTILINE)
    result = CliRunner().invoke(group, [command.name, "--help"])
    assert result.exit_code == 0
    assert len((command.help or "").split()) > 3
    assert all(
        option in result.output for parameter in command.params for option in parameter.opts if option.startswith("--")
    )


@pytest.mark.parametrize(("package", "option"), OPTIONS)
def test_an_option_says_what_it_is_for_and_what_it_is_without_it(package, option):
    assert len(re.sub(r"\[.*", "", option.help or "").split()) >= 2
    _, default = environment(option)
    assert option.is_flag or option.required or option.multiple or option.show_default or default


@pytest.mark.parametrize(("package", "option"), OPTIONS)
def test_the_variables_and_the_default_in_an_options_help_are_those_it_has(package, option):
    names, default = environment(option)
    read_by_click = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or [])
    if package == "model" or read_by_click:
        assert names == read_by_click
        if isinstance(option.default, str):
            assert default == option.default
    elif names:  # read by the settings, and the option goes before them
        variable = next(variable for variable in settings_help.variables() if variable.names == tuple(names))
        assert default == variable.default


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_help_of_what_runs_for_long_lists_every_setting_with_its_default(command):
    output = " ".join(CliRunner().invoke(backend, [command, "--help"]).output.split())
    listed = output.partition("Settings, from the environment: ")[2]
    assert listed == " ".join(
        f"{', '.join(variable.names)} {variable.meaning} [default: {variable.default}]"
        for variable in settings_help.variables()
    )


def test_every_variable_is_among_them_once():
    assert [name for variable in settings_help.variables() for name in variable.names] == list(NAMES)


def test_the_defaults_in_the_help_give_the_settings_that_they_are_the_defaults_of():
    defaults = {
        variable.names[0]: variable.default
        for variable in settings_help.variables()
        if variable.default not in (settings_help.UNSET, settings_help.USERS_FOLDER)
    }
    assert len(defaults) > len(Settings.model_fields) / 2
    assert read(defaults) == read({})
