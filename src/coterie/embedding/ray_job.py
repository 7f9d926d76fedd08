"""Parts of embeddings by actors on Ray, each of which writes whole parts as a process of torchrun does."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.embedding.parts import EmbeddingParts
from coterie.errors import UserError
from coterie.logger import Logger

_MOST_WORKERS = 16
_STORE_BYTES = 2**27  # of shared memory; nothing but numbers of parts goes through it


class _Writer:
    """An actor: it opens weights and images once, and writes the parts that it is asked for.

    What a person can mend comes back as a value: an exception would arrive as a page of Ray's.
    """

    def __init__(self, open_parts: Callable[[int], EmbeddingParts], workers: int, here: str) -> None:
        self.parts: EmbeddingParts | UserError
        try:
            os.chdir(here)  # paths, and the names of images that follow from them, are those of the command
            self.parts = open_parts(workers)
        except OSError as error:
            self.parts = UserError(f"{here} is not there on a machine of this Ray: {error.strerror}")
        except UserError as error:
            self.parts = error

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        return {"part": rows["part"], "refused": [self._write(int(number)) for number in rows["part"]]}

    def _write(self, number: int) -> str:
        """Why it was not written, or nothing."""
        try:
            if isinstance(self.parts, UserError):
                raise self.parts
            if number not in self.parts.there():  # its message may have been lost with another actor
                self.parts.write([number])
        except UserError as error:
            return str(error)
        return ""


def write_on_ray(
    open_parts: Callable[[int], EmbeddingParts],
    numbers: Sequence[int],
    logger: Logger,
    *,
    address: str,
    actors: int = 0,
    device: str = "auto",
    workers: int = -1,
) -> None:
    """Have Ray Data's actors write these parts.

    Args:
        open_parts: called by each actor with the number of its loader workers; it travels by its name, so that Coterie must be
            installed where the actors are.
        numbers: of the parts.
        logger: is told how many are done.
        address: ``local`` for a Ray of its own on this machine, ``auto`` or an address for a cluster that runs.
        actors: at most so many; 0: one for each GPU of the cluster, or without GPUs one for every two cores.
        device: ``auto``, ``cpu`` or ``cuda``: of an actor.
        workers: of an actor, to load images; -1: as many as its share of the cores, less one.

    Raises:
        UserError: Ray is not installed or not there, or what an actor could not do; the parts that are there are whole.
    """
    with _joined(address) as ray:
        has = ray.cluster_resources()
        cores, gpus = int(has.get("CPU", 1)), int(has.get("GPU", 0))
        gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
        if gpu and not gpus:
            raise UserError(f"--device is {device}, and this Ray has no GPU: use --device cpu")
        most = actors or (gpus if gpu else max(1, cores // 2))
        share = max(1, cores // most)
        loaders = workers if workers >= 0 else max(1, min(_MOST_WORKERS, share - 1))
        done = ray.data.from_items(
            [{"part": number} for number in numbers], override_num_blocks=len(numbers)
        ).map_batches(
            _Writer,
            fn_constructor_args=(open_parts, loaders, str(Path.cwd())),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2),
            num_cpus=share,
            num_gpus=1 if gpu else 0,
        )
        for row in logger.progress(done.iter_rows(), len(numbers), "embedding, in parts"):
            if row["refused"]:
                raise UserError(str(row["refused"]))


@contextmanager
def _joined(address: str) -> Iterator[Any]:
    """Ray, quiet, and left again if it was joined here.

    Raises:
        UserError: it is not installed, not there, or it failed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it reports home otherwise
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"--ray needs more packages: pip install 'coterie[ray]' ({error})") from error
    mine = not ray.is_initialized()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if mine and address == "local":
            cores = len(os.sched_getaffinity(0))
            own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            ray.init(address="local", **own, **quiet)
        elif mine:
            ray.init(address=address, **quiet)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put one of its own there
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs what it raises, by the page
        yield ray
    except ray.exceptions.RayTaskError:  # a fault of ours
        raise
    except (ConnectionError, ray.exceptions.RayError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"Ray failed ({said}): the same command goes on with the parts that are missing") from error
    finally:
        if mine and ray.is_initialized():
            ray.shutdown()
