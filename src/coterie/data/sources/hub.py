"""Datasets of the Hugging Face Hub, ``hf:NAME``: fetched and kept by the library datasets (the extra ``hf``)."""

import logging
import re

from coterie.data.sources.arrow_table import ArrowTable
from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.errors import UserError

_SPEC = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.+-]+))??(?::(?P<split>[\w.-]+))?")


def is_hub(spec: str) -> bool:
    """Whether a spec is a dataset of the Hub; ``hf://`` is a store of files."""
    return spec.startswith("hf:") and not spec.startswith("hf://")


def open_hub(spec: str, columns: Columns = ANY_COLUMNS) -> ArrowTable:
    """Open ``hf:NAME``, ``hf:NAME:SPLIT`` or ``hf:NAME:CONFIG:SPLIT``; without a split, ``train``.

    The first time, the dataset is fetched into the cache of the library; its Arrow files there are the source.

    Raises:
        UserError: The library is not installed, the Hub does not answer, or there is no such dataset.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec}: write hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, such as hf:user/pictures:train")
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{spec}: datasets of the Hub need one more package: pip install 'coterie[hf]'") from error
    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):  # what matters is raised here, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        found = datasets.load_dataset(match["name"], match["config"], split=match["split"] or "train")
        files = [each["filename"] for each in found.cache_files]
    except Exception as error:  # the library and the network raise many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{spec}: cannot be fetched ({reason}): check name and network, or give a copy on disk"
        ) from error
    return ArrowTable(spec, files, columns)
