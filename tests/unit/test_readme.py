"""The README keeps its word: its commands exist, and so do its paths."""

import re
from pathlib import Path

import click
import pytest

from cxrdist.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "data_manifests/README.md", "cluster/README.md", "benchmarks/RESULTS.md"]


def commands(text: str) -> list[list[str]]:
    lines = re.findall(r"^\s*(?:\$ |#\s+)?(cxrdist [a-z].*)$", text, flags=re.MULTILINE)
    return [line.split("#")[0].split() for line in lines] + [
        found.split() for found in re.findall(r"`(cxrdist [^`]+)`", text)
    ]


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("jobs/*.yaml"))])
def test_every_command_exists_with_its_options(document: str) -> None:
    for words in commands((ROOT / document).read_text()):
        command = cli.commands.get(words[1]) if not words[1].startswith("-") else cli
        assert command is not None, f"{document}: there is no command {' '.join(words)}"
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        for word in words[2:]:
            assert not word.startswith("-") or word.split("=")[0] in known, f"{document}: {' '.join(words)}"


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


def test_every_command_has_an_example_that_parses() -> None:
    for name, command in cli.commands.items():
        assert isinstance(command, click.Command)
        assert command.epilog, f"{name} has no example"
        for words in commands(command.epilog):
            assert words[1] == name
