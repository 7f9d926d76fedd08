"""What the tests have actors of Ray do; they import it by its name."""

from coterie.embedding.parts import TableParts
from coterie.errors import UserError
from coterie.logger import NullLogger


def refusing(workers: int) -> TableParts:
    """A machine that lacks what is needed."""
    raise UserError(f"no images here, for {workers} workers")


def main() -> None:
    """Have a Ray of its own write two parts."""
    from coterie.embedding.ray_job import write_on_ray

    try:
        write_on_ray(refusing, [0, 1], NullLogger(), address="local", actors=1, device="cpu", workers=3)
    except UserError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    from tests.embedding import actors  # not __main__, which no actor has

    actors.main()
