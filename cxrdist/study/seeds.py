"""Randomness as data: every use derives its own seed from the study's by name."""

import hashlib
import json


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2**63) for the use called `names`.

    Uses with different names are independent, and neither the order of execution nor resumption changes
    one: `derive_seed(7, "order", fold, epoch)` is the same number everywhere.
    """
    text = json.dumps([seed, *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
