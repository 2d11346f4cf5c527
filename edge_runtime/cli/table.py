"""Tables of plain text."""

from collections.abc import Sequence

from edge_runtime.printable import printable


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, with aligned columns; names in cells are made printable."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
