import pytest

from tests.embedding.running import Made, make, predicting


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run, images, and their single table."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def predicted(made: Made) -> Made:
    """A classifier, the same images, and the single table of their labels."""
    return predicting(made)
