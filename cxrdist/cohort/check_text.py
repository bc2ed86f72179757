"""Text from manifests, which may be anything, as people can read it."""

MOST_OF_A_NAME = 60
MOST_OF_A_REASON = 300
MOST_OF_A_CELL = 1000


def one_line(text: str, most: int) -> str:
    """Return text on one line, of at most `most` characters, none of which steers a terminal or turns the reading."""
    words = " ".join(text[: 2 * most].split())
    line = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in words)
    return line if len(text) <= 2 * most and len(line) <= most else f"{line[: most - 1]}…"


def short_name(text: str) -> str:
    """Return a name for a sentence or a table."""
    return one_line(text, MOST_OF_A_NAME)
