"""`cxrdist cohort`: the commands about cohorts, thin and quick to start."""

import click

from cxrdist.cli.cohort_build import build
from cxrdist.cli.cohort_card import card
from cxrdist.cli.cohort_check import check
from cxrdist.cli.cohort_fetch import fetch
from cxrdist.cli.help import OrderedGroup


@click.group(cls=OrderedGroup)
def cohort() -> None:
    """Cohorts: fetch public sources, build manifests, and check them before anybody trains on one."""


cohort.add_command(fetch)
cohort.add_command(build)
cohort.add_command(check)
cohort.add_command(card)
