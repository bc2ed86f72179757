"""What starts quickly stays quick, and what needs little runs with little: seen in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "ray", "pyarrow", "sklearn", "scipy", "matplotlib", "wandb", "pydantic", "albumentations", "PIL"]


def in_fresh_interpreter(code):
    """Runs code that ends by printing JSON, and returns that."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import cxrdist",
        "from click.testing import CliRunner; from cxrdist.cli import cli; "
        "assert all('Usage' in CliRunner().invoke(cli, [*words, '--help'], catch_exceptions=False).output "
        "for words in ([], *([name] for name in cli.commands), ['lungs', 'train'], ['lungs', 'apply']))",
    ],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert (
        in_fresh_interpreter(f"{code}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
        == []
    )


def test_the_command_shows_its_help():
    result = subprocess.run(
        [sys.executable, "-c", "from cxrdist.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0
    assert "run" in result.stdout
