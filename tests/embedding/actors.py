"""What Ray's actors run in the tests; they import it by name."""

from coterie.embedding.parts import EmbeddingParts
from coterie.errors import UserError
from coterie.logger import NullLogger


def refusing(workers: int) -> EmbeddingParts:
    """Fail as on a machine that lacks the images."""
    raise UserError(f"no images here, for {workers} workers")


def main() -> None:
    """Have a local Ray write two parts."""
    from coterie.embedding.ray_job import write_on_ray

    try:
        write_on_ray(refusing, [0, 1], NullLogger(), address="local", actors=1, device="cpu", workers=3)
    except UserError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    from tests.embedding import actors  # not from __main__, which actors cannot import

    actors.main()
