"""Where things are kept: a folder, or a bucket of an object store."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

from cxrdist.errors import UserError, one_of

Scheme = Literal["s3", "gs"]

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(s3|gs):")
"""Or what was meant for one."""
_NO_HOME = "this account has no home folder (HOME is not set, and the system does not know one)"
_OPTIONS = ("region", "endpoint_override", "scheme", "anonymous")


@dataclass(frozen=True)
class BucketLocation:
    """A place in an object store."""

    scheme: Scheme
    path: str
    """Bucket and prefix, without slashes at the ends."""
    options: Mapping[str, str]
    """`region`, `endpoint_override`, `scheme` (http or https), `anonymous` (true): what is not the provider's usual."""


def is_remote(location: str) -> bool:
    """Return whether this is a URI and not a folder."""
    return _URI.match(location) is not None


def parse_bucket(location: str, option: str) -> BucketLocation:
    """Read a URI such as `s3://bucket/prefix?region=eu-central-1`.

    Args:
        location: the URI.
        option: which option or key it is the value of, for errors.

    Raises:
        UserError: it is no URI of an object store, or holds a key.
    """
    try:
        parts = urlsplit(location)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _wrong(location, option) from None
    if "@" in parts.netloc:
        raise UserError(
            f"{option} holds a user or a key before an @, but should be {parts.scheme}://BUCKET/PREFIX; credentials "
            "come from the machine, such as its role, ~/.aws or GOOGLE_APPLICATION_CREDENTIALS."
        )
    path = f"{parts.netloc}{parts.path}".strip("/")
    if parts.scheme not in ("s3", "gs") or not parts.netloc or parts.fragment or "//" in path:
        raise _wrong(location, option)
    for name in options:
        if name not in _OPTIONS:
            raise UserError(f"{option} has the option {name!r} after the ?, but should have {one_of(_OPTIONS, name)}.")
    return BucketLocation(cast("Scheme", parts.scheme), path, options)


def absolute_location(location: str | Path, option: str) -> str:
    """Return a location that means the same wherever it is read: an absolute path, or the URI without idle slashes.

    Raises:
        UserError: it is a URI, but of no object store; or no path.
    """
    if is_remote(str(location)):
        where = parse_bucket(str(location), option)
        _, mark, options = str(location).partition("?")
        return f"{where.scheme}://{where.path}{mark if options else ''}{options}"
    try:
        return str(absolute_path(location))
    except ValueError as error:
        raise UserError(f"{option} is {str(location)!r}, but should be a path: {error}.") from None


def is_same_place(first: str, second: str) -> bool:
    """Return whether two locations that `absolute_location` gave, and that are there, are one place."""
    if is_remote(first) and is_remote(second):
        one, other = (parse_bucket(location, "The location") for location in (first, second))
        # Other options say how to come to it.
        servers = [where.options.get("endpoint_override") for where in (one, other)]
        return (one.scheme, one.path) == (other.scheme, other.path) and servers[0] == servers[1]
    return not is_remote(first) and not is_remote(second) and Path(first).samefile(second)


def absolute_path(path: str | Path, base: Path | None = None) -> Path:
    """Return an absolute path without links; a relative one starts at `base`, by default the working folder.

    Raises:
        ValueError: it cannot be a path, as the message says.
    """
    try:
        return ((base or Path.cwd()) / with_home(path)).resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(str(error).rstrip(".")) from None


def with_home(path: str | Path) -> Path:
    """Return a path whose `~` is the home folder.

    Raises:
        ValueError: it cannot be a path, or starts at a home folder that the system does not know.
    """
    if "\0" in str(path):
        # Which Python says of it differs from version to version.
        raise ValueError("it holds a null byte")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        first = Path(path).parts[0]
        raise ValueError(_NO_HOME if first == "~" else f"the system knows no user {first[1:]!r}") from None


def own_folder(variable: str, usual: str) -> Path:
    """Return this account's folder for one kind of files.

    Args:
        variable: of the environment, which may name it, such as XDG_CACHE_HOME.
        usual: its name in the home folder.

    Raises:
        UserError: the variable is not set, and there is no home folder.
    """
    named = os.environ.get(variable)
    return Path(named) if named else home_folder(f"HOME or {variable}") / usual


def home_folder(variables: str = "HOME") -> Path:
    """Return this account's home folder.

    Args:
        variables: of the environment, that a person can set where there is none.

    Raises:
        UserError: the system knows none.
    """
    try:
        return Path.home()
    except RuntimeError:
        sentence = f"{_NO_HOME[0].upper()}{_NO_HOME[1:]}"
        raise UserError(f"{sentence}; set {variables} to a folder that it can write to.") from None


def join(location: str, name: str) -> str:
    """Return the location of what lies under another."""
    if not is_remote(location):
        return str(Path(location) / name)
    base, mark, options = location.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def _wrong(location: str, option: str) -> UserError:
    return UserError(
        f"{option} is {location!r}, but should be a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, with options "
        "such as ?region=eu-central-1 or ?endpoint_override=HOST:PORT&scheme=http."
    )
