"""What mkdocs does not do by itself: pages that lie outside ``docs``, the reference, and links between all of them."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/gpu.md": "gpu.md",
}
"""Pages of the project that are pages of the site too, under another name."""

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s:]*)(#[^)\s]*)?\)")


def on_config(config: Any) -> None:
    """Add the decisions to the menu, by their numbers."""
    records = [f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    config.nav[-1]["Project"].append({"Decisions": records})


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from elsewhere, with their links as they are in the project."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=relinked((ROOT / source).read_text("utf-8"), source, page)))
    files.append(File.generated(config, "examples.md", content=examples()))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links of the pages of ``docs`` to where the site has what they name."""
    path = page.file.src_path
    return markdown if page.file.generated_by else relinked(markdown, f"docs/{path}", path)


def relinked(text: str, source: str, page: str) -> str:
    """The text of a file of the project as a page of the site; what the site has not is named without a link."""

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None and path.startswith("examples/"):
            place, anchor = "examples.md", "#" + Path(path).stem
        if place is None or not (place in OUTSIDE.values() or place == "examples.md" or (ROOT / path).is_file()):
            return words
        return f"[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(link, text)


def examples() -> str:
    """The examples of the project, each whole."""
    codes = {path: path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.py"))}
    parts = [
        f"## {path.stem} {{#{path.stem}}}\n\n`examples/{path.name}`\n\n```python\n{code}```\n"
        for path, code in codes.items()
    ]
    return "\n".join(["# Examples\n", *parts])


def reference() -> str:
    """What ``coterie.__all__`` names, and the grouping that works in any training loop, from their docstrings."""
    sys.path.insert(0, str(ROOT / "src"))
    import coterie

    places = [f"coterie.{home}.{name}" for name, home in coterie._HOMES.items() if home != "version"]
    functions = [each for each in places if each.rpartition(".")[2].islower()]
    classes = [each for each in places if each not in functions]
    grouping = [
        f"coterie.grouping.{each}" for each in ("sinkhorn", "assignment", "groups", "loss", "regularizers", "kmeans")
    ]
    parts = ["# Reference\n\nWhat `coterie.__all__` names is public.\n"]
    for title, names in (("Functions", functions), ("Classes", classes)):
        parts += [f"## {title}\n", *(f"::: {each}\n    options: {{heading_level: 3}}\n" for each in names)]
    parts += ["## Grouping\n\nIt needs tensors only, and works in a training loop of your own.\n"]
    parts += [f"::: {each}\n    options: {{heading_level: 3, show_root_full_path: true}}\n" for each in grouping]
    return "\n".join(parts)
