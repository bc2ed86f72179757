"""The README keeps its word: its commands exist, and so do its paths."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cxrdist.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "data_manifests/README.md", "jobs/README.md", "benchmarks/RESULTS.md"),
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("cluster/**/README.md")),
]


def commands(text: str) -> list[list[str]]:
    lines = re.findall(r"^\s*(?:\$ |#\s+)?(cxrdist [a-z].*)$", text, flags=re.MULTILINE)
    return [line.split("#")[0].split() for line in lines] + [
        found.split() for found in re.findall(r"`(cxrdist [^`]+)`", text)
    ]


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that a line calls, one of a group too, and the words after it."""
    command: click.Command = cli
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.commands.get(rest[0])
        assert inner is not None, f"there is no command {' '.join(words)}"
        command, rest = inner, rest[1:]
    return command, rest


def single_commands(group: click.Group, names: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return the commands that do something, those in groups too, by their words."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        inner = (*names, name)
        found += single_commands(command, inner) if isinstance(command, click.Group) else [(inner, command)]
    return found


COMMANDS = dict(single_commands(cli))


def refused(words: list[str]) -> str:
    """Return what is wrong with a line's command or options; empty where all of it exists."""
    try:
        command, rest = find_command(words)
    except AssertionError as error:
        return str(error)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in known]
    return f"{' '.join(words)}: unknown {unknown}" if unknown else ""


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("jobs/*.yaml"))])
def test_every_command_exists_with_its_options(document: str) -> None:
    assert [fault for words in commands((ROOT / document).read_text()) if (fault := refused(words))] == []


@pytest.mark.parametrize(
    "line",
    ["cxrdist trian", "cxrdist lungs trian", "cxrdist lungs train --settings", "cxrdist run s --cohort", "cxrdist -x"],
)
def test_a_command_or_option_that_is_not_there_is_noticed(line: str) -> None:
    assert refused(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "cxrdist --version",
        "cxrdist lungs",
        "cxrdist lungs -h",
        "cxrdist lungs train --cohort c --seed=1",
        "cxrdist run s",
    ],
)
def test_a_command_with_options_that_are_there_is_taken(line: str) -> None:
    assert refused(line.split()) == ""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    tops = {path.name for path in ROOT.iterdir()} - {"runs"}
    text = text.replace("jobs/VARIANT/", "")  # a folder of a run directory
    for path in re.findall(r"(?<![\w./-])((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|yaml|lock))", text):
        if path.split("/")[0] in tops or ("/" not in path and path.endswith((".md", ".toml", ".lock"))):
            assert (ROOT / path).exists(), f"{document} names {path}"


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_parses(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    assert command.epilog, f"{' '.join(names)} has no example"
    examples = [line.strip() for line in command.epilog.strip().splitlines()]
    lines = commands(command.epilog)
    assert len(lines) == len(examples)
    for words in lines:
        called, rest = find_command(words)
        assert called is command, f"an example of {' '.join(names)} calls {' '.join(words)}"
        if ">" in rest:
            rest = rest[: rest.index(">")]
        called.make_context(words[-1], rest)


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_its_examples_as_they_stand(names: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*names, "--help"], catch_exceptions=False)
    shown = result.output.split("Examples:\n")[1].splitlines()
    assert [line.strip() for line in shown] == [line.strip() for line in str(COMMANDS[names].epilog).split("\n")[1:-1]]


def test_groups_list_their_commands_in_the_order_of_use() -> None:
    for group in (cli, cli.commands["lungs"]):
        assert isinstance(group, click.Group)
        assert group.list_commands(click.Context(group)) == list(group.commands)
