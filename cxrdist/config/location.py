"""Where things are kept: a folder, or a bucket of an object store."""

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
    """Return a location that means the same wherever it is read: an absolute path, or the URI as it is.

    Raises:
        UserError: it is a URI, but of no object store.
    """
    if is_remote(str(location)):
        parse_bucket(str(location), option)
        return str(location)
    return str(Path(location).expanduser().resolve())


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
