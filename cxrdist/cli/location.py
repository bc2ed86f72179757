"""Run directories on the command line: folders, or places in an object store."""

from pathlib import Path
from typing import Any

import click


class RunLocation(click.Path):
    """A folder that need not exist, or a URI such as s3://BUCKET/PREFIX."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it was given."""
        # Not at the top: the command line is to be quick to start.
        from cxrdist.config.location import is_remote, parse_bucket

        if is_remote(str(value)):
            name = "The run directory" if param is None else param.opts[0] if param.opts[0][0] == "-" else "RUN"
            parse_bucket(str(value), name)
            return str(value)
        return str(super().convert(value, param, ctx))


def shown(path: Path) -> Path:
    """Return a path as it is short to read: relative to the working folder where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
