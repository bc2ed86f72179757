"""One HTML page that needs nothing but itself."""

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrdist.report.results import Results
from cxrdist.report.section import Section, Words, pictures_of, tables_of
from cxrdist.report.table import Table


def render_page(results: Results, sections: Sequence[Section], extent: str = "") -> str:
    """Return the page: styles and figures inside, no script, every name escaped.

    `extent` says how many variants and folds there are where they are not of one study.
    """
    environment = Environment(
        loader=PackageLoader("cxrdist.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["data_uri"] = _data_uri
    environment.tests["words"] = lambda item: isinstance(item, Words)
    environment.tests["table"] = lambda item: isinstance(item, Table)
    return environment.get_template("page.html.j2").render(
        results=results,
        extent=extent,
        sections=[section for section in sections if section],
        # Titles may be equal, names are not.
        table_numbers={table.name: number for number, table in enumerate(tables_of(sections), start=1)},
        figure_numbers={picture.name: number for number, picture in enumerate(pictures_of(sections), start=1)},
    )


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
