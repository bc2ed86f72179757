"""Tables as text: CSV, Markdown, LaTeX and plain; HTML is in the page's template."""

import io
import math

from cxrdist.cohort.check_text import csv_writer
from cxrdist.report.table import UNDEFINED, Cell, Table

LATEX_WIDTH = 102
"""Characters, gaps of three included, of a \\small table that is 16 cm wide."""

_PROSE = 40
"""Characters from which on a column's cells are set as paragraphs."""
_MOST_ROWS = 40
"""Rows that fit on a page; a longer table runs over pages."""

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",
        "]": "{]}",
    }
)
_MARKDOWN = str.maketrans({character: "\\" + character for character in "\\`*_{}[]<>#|~$&"})


def render_csv(table: Table) -> str:
    """Return a header and the rows, numbers with 15 significant digits, undefined ones as "n/a", and no formulas."""
    text = io.StringIO()
    write = csv_writer(text)
    write(_line(column.label) for column in table.columns)
    for row in table.rows:
        write(_exact(cell) for cell in row)
    return text.getvalue()


def render_markdown(table: Table) -> str:
    """Return title, caption, a pipe table and the notes; rows that sum up others are bold."""
    keys = table.keys
    header = [_markdown(column.label) for column in table.columns]
    rules = [":--" if index < keys else "--:" for index in range(len(header))]
    lines = [f"**{_markdown(table.title)}.** {_markdown(table.caption)}", "", _pipes(header), _pipes(rules)]
    for index, row in enumerate(table.shown()):
        cells = [_markdown(cell) for cell in row]
        lines.append(_pipes([f"**{cell}**" if cell else "" for cell in cells] if index in table.totals else cells))
    if table.notes:
        lines += ["", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def render_latex(table: Table) -> str:
    """Return a table for the package booktabs; a wide table goes on below itself.

    It is a `table` environment, or, where a page does not hold it, a `longtable` (package longtable).
    """
    shown = table.shown()
    if len(shown) > _MOST_ROWS:
        return _longtable(table, shown)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
        rf"  \label{{tab:{table.name}}}",
        r"  \small",
    ]
    for number, block in enumerate(table.blocks(LATEX_WIDTH, gap=3)):
        lines += [r"  \par\medskip"] if number else []
        lines += _tabular(table, shown, block)
    if table.notes:
        lines += [r"  \par\smallskip", *(rf"  {{\footnotesize {_latex(note)}\par}}" for note in table.notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def render_text(table: Table, width: int = 110) -> str:
    """Return an aligned table for a terminal; one wider than `width` characters goes on below itself."""
    shown = [[_line(cell) for cell in row] for row in table.shown()]
    widths = table.widths(gap=2)
    lines = [f"{_line(table.title)}. {_line(table.caption)}"]
    for block in table.blocks(width, gap=2):
        lines.append("")
        widths_here = dict(zip(block, (widths[index] for index in block), strict=True))
        for group, run in table.spans(block):
            missing = len(_line(group)) + 4 - sum(widths_here[index] for index in run)
            widths_here[run[-1]] += max(0, missing) if group else 0
        if table.grouped(block):
            lines.append(
                "".join(_over(_line(group), sum(widths_here[i] for i in run)) for group, run in table.spans(block))
            )
        titles = [_line(column.title) for column in table.columns]
        for row in [titles, ["-" * (widths[index] - 2) for index in range(len(titles))], *shown]:
            cells = [
                row[index].ljust(widths_here[index]) if index < table.keys else row[index].rjust(widths_here[index])
                for index in block
            ]
            lines.append("".join(cells))
    lines += ["", *(f"  {_line(note)}" for note in table.notes)] if table.notes else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _over(group: str, width: int) -> str:
    """Return a group's title centred over its columns, with the gap on the left that numbers have."""
    return f"  {f' {group} ':-^{width - 2}}" if group else " " * width


def _longtable(table: Table, shown: list[list[str]]) -> str:
    lines = [r"{\small"]
    for number, block in enumerate(table.blocks(LATEX_WIDTH, gap=3)):
        lines.append(rf"\begin{{longtable}}{{{_alignments(table, shown, block)}}}")
        if number == 0:
            lines += [
                rf"  \caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
                rf"  \label{{tab:{table.name}}} \\",
            ]
        lines += [*_head(table, block), r"    \endhead", *_body(table, shown, block), r"\end{longtable}"]
    lines += [rf"{{\footnotesize {_latex(note)}\par}}" for note in table.notes]
    return "\n".join([*lines, "}"]) + "\n"


def _tabular(table: Table, shown: list[list[str]], block: list[int]) -> list[str]:
    begin = rf"  \begin{{tabular}}{{{_alignments(table, shown, block)}}}"
    return [begin, *_head(table, block), *_body(table, shown, block), r"  \end{tabular}"]


def _alignments(table: Table, shown: list[list[str]], block: list[int]) -> str:
    prose = [index for index in block if any(len(row[index]) > _PROSE for row in shown)]
    paragraph = rf"p{{{9 / max(len(prose), 1):.1f}cm}}"
    return "".join(paragraph if index in prose else "l" if index < table.keys else "r" for index in block)


def _head(table: Table, block: list[int]) -> list[str]:
    lines = [r"    \toprule"]
    if table.grouped(block):
        cells, rules, column = [], [], 1
        for group, run in table.spans(block):
            last = column + len(run) - 1
            cells.append(rf"\multicolumn{{{len(run)}}}{{c}}{{{_latex(group)}}}" if group else "")
            rules += [rf"\cmidrule(lr){{{column}-{last}}}"] if group else []
            column = last + 1
        lines += [f"    {' & '.join(cells)} \\\\", f"    {' '.join(rules)}"]
    return [*lines, f"    {' & '.join(_latex(table.columns[index].title) for index in block)} \\\\", r"    \midrule"]


def _body(table: Table, shown: list[list[str]], block: list[int]) -> list[str]:
    lines = []
    for number, row in enumerate(shown):
        if number and (number in table.totals) != (number - 1 in table.totals):
            lines.append(r"    \midrule")
        lines.append(f"    {' & '.join(_latex(row[index]) for index in block)} \\\\")
    return [*lines, r"    \bottomrule"]


def _exact(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        # The last bits of a double depend on the order of additions; 15 digits are the same everywhere.
        return UNDEFINED if math.isnan(cell) else f"{cell:.15g}"
    return _line(str(cell))


def _line(text: str) -> str:
    """Return text on one line, without characters that would steer a terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(text.split()))


def _markdown(text: str) -> str:
    return _line(text).translate(_MARKDOWN)


def _latex(text: str) -> str:
    return _line(text).translate(_LATEX)


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
