import pytest

from tests.embedding.running import Made, make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run, images, and their single table."""
    return make(tmp_path_factory.mktemp("made"))
