"""The published rows of SwAV and SMoG, each with the command that would run it, as a page.

    python benchmarks/papers/page.py     # writes docs/papers.md from benchmarks/papers/rows/*.toml

Nothing is run: ``tests/benchmarks/test_papers.py`` resolves every command into settings, and compares them with the row.
"""

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "papers.md"
_INTRODUCTION = """\
# The papers' tables, row by row

Written by `python benchmarks/papers/page.py` from [benchmarks/papers/rows](../benchmarks/papers/rows): a file for each
published row, with its protocol, its figure and where that is from, and the commands that would run it here. A test resolves
every command: preset, options and settings exist, and give the epochs, batch, crops and network of the row. `IMAGENET/train`
and the like are your folders; `torchrun` in front of `coterie pretrain` gives the authors' number of GPUs
([processes.md](processes.md)).

**None of these rows was run by us**: each takes a cluster, or days of several GPUs, or data that may not be passed on. What we
did run, at sizes that a CPU takes, is in [log.md](log.md) and [benchmarks](../benchmarks/README.md). That losses, assignments
and schedules are the originals' is tested on golden trajectories instead (`tests/parity`).

* *certain: no*: the figure could not be checked against its source, and may be wrong.
* *hours* are the authors', where they publish them; a dash means that they do not.
* *run by us*: whether the commands were run, on this data, by us.
"""
_LEFT_OUT = """\
## Left out

* Rows of methods that are not Coterie's, such as supervised networks, PIRL or MoCo; of DETR; and of pretraining on a billion
  uncurated pictures of Instagram.
* SMoG's rows of ImageNet with 1 % of labels, of COCO, of Cityscapes and of a network of four times the width, and its
  ablations: figures that we found do not say their network or detector. Its release links no weights.
* SwAV's table of training times and memory: cells that we could not check.
"""


@dataclass(frozen=True)
class Row:
    """A row of a published table.

    Attributes:
        name: of its file.
        paper: SwAV or SMoG.
        table: what the table is about.
        method: as the paper calls it.
        epochs: of pretraining.
        batch: images per step of pretraining.
        network: as timm names it.
        width: factor on its channels.
        crops: that predict, as in 2x224+6x96.
        protocol: how the figure is measured.
        metric: its name and unit.
        figure: as published.
        figure_certain: whether the figure was read where ``figure_from`` says.
        figure_from: where it is published, or quoted.
        hardware: on which it was pretrained; None: not said.
        commands: that would run it here, in their order.
        differs: in what ours differs from the protocol.
        hours: of pretraining, on that hardware; None: not said.
        hours_from: published, or how they follow from what is.
        weights: the file that the authors released; None: none.
        check: the command that measures the figure from these weights.
        run_by_us: whether the commands were run.
    """

    name: str
    paper: str
    table: str
    method: str
    epochs: int
    batch: int
    network: str
    width: float
    crops: str
    protocol: str
    metric: str
    figure: float
    figure_certain: bool
    figure_from: str
    commands: tuple[str, ...]
    differs: tuple[str, ...]
    hardware: str | None = None
    hours: float | None = None
    hours_from: str | None = None
    weights: str | None = None
    check: str | None = None
    run_by_us: bool = False

    @property
    def network_in_words(self) -> str:
        """The network, as tables name it."""
        known = {"resnet50": "RN50", "swin_tiny_patch4_window7_224": "Swin-T"}
        return known[self.network] + (f"-w{self.width:g}" if self.width != 1 else "")


def read_rows(folder: Path = HERE / "rows") -> list[Row]:
    """Every row, by the name of its file; a field that is missing or unknown is a TypeError.

    Args:
        folder: of the files.
    """
    rows = []
    for file in sorted(folder.glob("*.toml")):
        content = tomllib.loads(file.read_text("utf-8"))
        for several in ("commands", "differs"):
            content[several] = tuple(content[several])
        rows.append(Row(file.stem, **content))
    return rows


def page(rows: Sequence[Row]) -> str:
    """The page of some rows, table by table."""
    lines = [_INTRODUCTION]
    for paper, table in dict.fromkeys((each.paper, each.table) for each in sorted(rows, key=_place)):
        chosen = [each for each in sorted(rows, key=_place) if (each.paper, each.table) == (paper, table)]
        lines += [f"## {paper}: {table}", ""]
        lines += [
            "| row | method | epochs, batch, crops | network | figure | certain | hours, hardware | run by us | weights |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *map(_line, chosen),
            "",
        ]
        for protocol in dict.fromkeys(each.protocol for each in chosen):
            same = [each for each in chosen if each.protocol == protocol]
            lines.append(f"*{', '.join(each.name for each in same)}*: {protocol}. {_differences(same)}")
            lines.append("")
        lines += ["```sh", *_commands(chosen), "```", ""]
    checked = [each for each in rows if each.check]
    lines += [
        "## What could be checked from official weights",
        "",
        f"{len({each.weights for each in checked})} files of SwAV's release, which its README links, and {len(checked)} rows. "
        "They need the data of the row and a GPU for hours, not a cluster. SwAV's deviation of the first channel is .228.",
        "",
        "```sh",
        *(f"{each.check}  # {each.name}: {each.figure}" for each in sorted(checked, key=_place)),
        "```",
        "",
        _LEFT_OUT,
    ]
    return "\n".join(lines)


def _place(row: Row) -> tuple[bool, str, str, str, int, str]:
    return row.paper != "SwAV", row.table, row.method, row.protocol, row.epochs, row.name


def _line(row: Row) -> str:
    hours = "-" if row.hours is None else f"{row.hours:g} ({row.hours_from})"
    cells = [
        f"[{row.name}](../benchmarks/papers/rows/{row.name}.toml)",
        row.method,
        f"{row.epochs}, {row.batch:,}, {row.crops}",
        row.network_in_words,
        f"{row.figure} {row.metric.rpartition(', ')[2]} {row.metric.rpartition(', ')[0]} ({row.figure_from})",
        "yes" if row.figure_certain else "no",
        f"{hours}; {row.hardware or '-'}",
        "yes" if row.run_by_us else "no",
        f"`{row.weights}`" if row.weights else "none",
    ]
    return f"| {' | '.join(cells)} |"


def _differences(rows: Sequence[Row]) -> str:
    said = list(dict.fromkeys(each for row in rows for each in row.differs))
    return f"Ours differs: {'; '.join(said)}." if said else ""


def _commands(rows: Sequence[Row]) -> list[str]:
    """The commands of each row; those that several rows share are written once."""
    lines, seen = [], set[str]()
    for row in rows:
        new = [each for each in row.commands if each not in seen]
        seen.update(new)
        lines += [f"{each}  # {row.name}" for each in new]
    return lines


def main() -> None:
    """Write the page."""
    rows = read_rows()
    PAGE.write_text(page(rows), "utf-8")
    sys.stdout.write(f"{PAGE}: {len(rows)} rows\n")


if __name__ == "__main__":
    main()
