"""`cxrdist cohort card`: what a cohort is, for people and for machines, from its manifest alone."""

import hashlib
from collections import Counter
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrdist.cli.help import WithExamples
from cxrdist.errors import CxrdistError, UserError

if TYPE_CHECKING:
    from cxrdist.cohort.card import CardFile, Described, Stated

CARD, METADATA = "card.md", "croissant.json"


@click.command(
    cls=WithExamples,
    epilog="""
    cxrdist cohort card cohort.csv
    cxrdist cohort card data_manifests/four_class.yaml --images DIR --out four_class_card
    cxrdist cohort card cohort.csv --licence CC-BY-4.0 --organisation HOSPITAL --published 2026-05-01 --url https://HOME
    """,
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that the manifest's paths start from; by default the manifest's own.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/cohort-card"),
    show_default=True,
    help="Folder of the two files.",
)
@click.option("--name", help="Of the cohort; by default the manifest's.")
@click.option("--description", metavar="TEXT", help="A sentence or two on what the cohort is for.")
@click.option("--licence", metavar="LICENCE", help="Web address or name of the licence.")
@click.option("--citation", metavar="TEXT", help="How to cite the cohort, best as BibTeX.")
@click.option("--url", metavar="URL", help="Web page of the cohort.")
@click.option("--person", "persons", metavar="NAME", multiple=True, help="Who made it. Repeatable.")
@click.option("--organisation", "organisations", metavar="NAME", multiple=True, help="Who made it. Repeatable.")
@click.option("--published", metavar="YYYY-MM-DD", help="When it was published.")
@click.argument("manifest", type=click.Path(path_type=Path, dir_okay=False))
def card(
    manifest: Path,
    images: Path | None,
    out: Path,
    name: str | None,
    description: str | None,
    licence: str | None,
    citation: str | None,
    url: str | None,
    persons: tuple[str, ...],
    organisations: tuple[str, ...],
    published: str | None,
) -> None:
    """Describe a cohort: a data card for people, and Croissant metadata for machines.

    MANIFEST is a .csv or .parquet table, or a .yaml recipe. No image is opened. OUT/card.md has counts, how patients
    are told apart, and known doubts; OUT/croissant.json has the same as JSON-LD (mlcommons.org/croissant/1.0). What the
    options do not state is not stated there either. Files that are there are replaced only if they were written so
    before and not changed since.
    """
    from cxrdist.cohort.card import Stated

    stated = Stated(
        name=name or manifest.stem,
        description=description,
        licence=licence,
        citation=citation,
        url=url,
        persons=persons,
        organisations=organisations,
        published=published,
    )
    card_command(manifest, manifest.parent if images is None else images, out, stated)


def card_command(manifest: Path, images: Path, out: Path, stated: "Stated") -> None:
    """Write the card and the metadata of a cohort, and say what was not stated.

    Raises:
        UserError: an option is wrong, or the manifest cannot be read or has a row that no study accepts.
        CxrdistError: the manifest was changed meanwhile.
    """
    from cxrdist.cohort.card import markdown_card
    from cxrdist.cohort.card_croissant import croissant, json_bytes
    from cxrdist.cohort.manifest import files_of_manifest
    from cxrdist.outputs import Outputs
    from cxrdist.run.store import Store, explained

    _check(stated)
    outputs = Outputs(out, [CARD, METADATA], option="--out", inputs=files_of_manifest(manifest, images))
    described = _describe(manifest, images)
    with explained(f"The folder {str(out)!r}", "give another one as --out", out), outputs.writing():
        store = Store(out)
        store.write_bytes(CARD, markdown_card(described, stated).encode())
        store.write_bytes(METADATA, json_bytes(croissant(described, stated)))
    click.echo(f"card: {store.local(CARD)}")
    click.echo(f"metadata: {store.local(METADATA)}")
    if stated.missing:
        click.echo(f"Not stated, although Croissant 1.0 requires it: {', '.join(stated.missing)}.")


def _check(stated: "Stated") -> None:
    from cxrdist.cohort.card_croissant import is_web_address

    if stated.url is not None and not is_web_address(stated.url):
        raise UserError(f"--url is {stated.url!r}, but should be a web address, such as https://example.org/cohort.")
    if stated.published is not None:
        try:
            # Other spellings of ISO 8601 are read too, but not by every reader of the metadata.
            is_plain = date.fromisoformat(stated.published).isoformat() == stated.published
        except ValueError:
            is_plain = False
        if not is_plain:
            raise UserError(f"--published is {stated.published!r}, but should be a date, such as 2026-05-01.")


def _describe(manifest: Path, images: Path) -> "Described":
    from cxrdist.cohort.card import Described
    from cxrdist.cohort.check_table import read_table
    from cxrdist.cohort.table import load_cohort

    cohort = load_cohort(manifest, images, classes=None)
    table = read_table(manifest, images, classes=None)
    location = table.manifest.location
    file, recipe = _card_file(location), None if location == manifest else _card_file(manifest)
    filled: Counter[str] = Counter()
    for _, rows in table.batches():
        filled.update({name: len(rows) - rows.column(name).null_count for name in rows.column_names})
    if len(table) != len(cohort) or _card_file(location) != file:
        raise CxrdistError(f"{str(location)!r} was changed while it was read; run the command again.")
    return Described(cohort, table, filled, file, recipe)


def _card_file(path: Path) -> "CardFile":
    from cxrdist.cohort.card import CardFile

    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return CardFile(path.name, digest, file.tell())
    except OSError as error:
        raise UserError(f"The manifest {str(path)!r} cannot be read: {error.strerror or error}.") from None
