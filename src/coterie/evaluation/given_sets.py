"""Labeled images as a caller gives them: paths, or images of the caller's own."""

from dataclasses import dataclass

from coterie.config.schema import ProbeConfig
from coterie.data.sources.columns import Columns
from coterie.data.sources.open import is_from_python
from coterie.data.sources.own_data import Data, GivenData, given_data
from coterie.data.sources.source import ImageSource, image_remarks
from coterie.errors import BadConfig
from coterie.evaluation.labeled_data import LabeledPair, labeled_pair
from coterie.logger import Logger


@dataclass(frozen=True)
class GivenSets:
    """Images to train a probe on and to test it on.

    Attributes:
        train: images to train on.
        test: images to test on; without specs, none were given.
    """

    train: GivenData
    test: GivenData

    def open(self, columns: Columns, logger: Logger) -> tuple[ImageSource, ImageSource | None]:
        """The images; None for those to test on if none were given.

        Args:
            columns: where images and labels are, if they are in files.
            logger: is warned where it was a choice how they were found.
        """
        train, test = self.train.open(columns), self.test.open(columns) if self.test.specs else None
        for line in (line for source in (train, test) if source is not None for line in image_remarks(source)):
            logger.warning(line)
        return train, test

    @property
    def settings(self) -> dict[str, str | list[str]]:
        """What ``config.toml`` says of them."""
        return {"train": list(self.train.specs), "test": list(self.test.specs)}


def given_sets(
    train: Data, test: Data, columns: Columns, logger: Logger, names: tuple[str, str] = ("train", "test")
) -> GivenSets:
    """Check labeled images that a caller gives.

    Args:
        train: to train a probe on.
        test: to test it on; empty: none.
        columns: the keys of image and label in dictionaries, if they have no common names.
        logger: receives the progress of reading labels.
        names: what both are called in messages.

    Raises:
        UserError: they are neither paths nor images.
    """
    found = (
        given_data(each, name, columns=columns, read_labels=True, logger=logger)
        for each, name in zip((train, test), names, strict=True)
    )
    return GivenSets(*found)


def given_probe(train: Data, test: Data, columns: Columns, logger: Logger) -> GivenSets | None:
    """The images of a run's probe, as of :func:`given_sets`; None if none were given.

    Raises:
        BadConfig: there are only images to test on.
    """
    given = given_sets(train, test, columns, logger, ("probe", "probe_test"))
    if given.test.specs and not given.train.specs:
        raise BadConfig("--probe-test names images to test a probe on; name those it learns from with --probe")
    return given if given.train.specs else None


def probe_pair(probe: ProbeConfig, given: GivenSets | None, columns: Columns, logger: Logger) -> LabeledPair:
    """The images of a run's probe, by its settings or as they were given.

    Args:
        probe: its settings.
        given: its images, if they were given.
        columns: where images and labels are, if they are in files.
        logger: is warned of images that are left out.

    Raises:
        BadConfig: they came from Python, and were not given again.
    """
    if given is None and any(map(is_from_python, (*probe.train, *probe.test))):
        raise BadConfig("the images of the probe came from Python: give them again, or leave it out with probe=none")
    given = given or GivenSets(GivenData(probe.train), GivenData(probe.test))
    pair = labeled_pair(*given.open(columns, logger))
    pair.tell(logger)
    return pair
