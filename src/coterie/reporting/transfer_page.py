"""The page of a transfer: what heads reach that were trained on several networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from coterie.reporting import html
from coterie.reporting.tables import Table


def write_transfer_page(
    path: Path, title: str, headline: str, line: str, means: Table, seeds: Sequence[Table], about: Mapping[str, str]
) -> None:
    """Write the page as one HTML file that loads nothing, atomically.

    Args:
        path: of the file.
        title: of the page.
        headline: what was found, in a sentence.
        line: what was trained on what.
        means: a row for each network.
        seeds: for each figure a table with a row for each network, and a column for each seed.
        about: facts for the end of the page.

    Raises:
        UserError: the file cannot be written.
    """
    values = {"title": title, "headline": headline, "line": line, "means": means, "seeds": seeds, "about": about}
    html.write_page(path, "transfer.html", (0,), **values)
