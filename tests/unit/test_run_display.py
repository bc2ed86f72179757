"""What a run says of its progress."""

import io

import pytest
from rich.console import Console

from cxrdist.run import display
from cxrdist.run.text import duration


def test_heat_maps_are_counted_with_an_estimate_of_what_is_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    output = io.StringIO()
    shown = display.ConsoleDisplay(Console(file=output, width=200))
    for done, at in ((32, 100.0), (64, 132.0), (96, 164.0)):
        now = at
        shown.explained("whole-vgg16", done, 96)
    assert output.getvalue().splitlines() == [
        "whole-vgg16: made 32 of 96 heat maps",
        "whole-vgg16: made 64 of 96 heat maps, about 32 s left",
        "whole-vgg16: made 96 of 96 heat maps",
    ]


@pytest.mark.parametrize(("seconds", "words"), [(45.0, "45 s"), (720.0, "12 min"), (12600.0, "3.5 h")])
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words
