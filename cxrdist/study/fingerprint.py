"""Fingerprints: equal if and only if everything that can change a number is equal."""

import hashlib
import json
from collections.abc import Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def fingerprint(value: Json) -> str:
    """Return 64 hexadecimal digits: SHA-256 of the canonical JSON of `value`.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
