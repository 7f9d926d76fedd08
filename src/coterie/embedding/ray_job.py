"""Writes parts of a table by actors on Ray, each of which writes whole parts as a process of torchrun does."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.embedding.parts import TableParts
from coterie.errors import UserError
from coterie.logger import Logger
from coterie.usable_cores import usable_cores

_MAX_WORKERS = 16
_STORE_BYTES = 2**27  # of shared memory; only numbers of parts pass through it


class _Writer:
    """An actor: it loads the weights and opens the images once, and writes the parts it is given.

    A user's mistake is returned as a value: an exception would arrive as a page of Ray's messages.
    """

    def __init__(self, open_parts: Callable[[int], TableParts], workers: int, here: str) -> None:
        self.parts: TableParts | UserError
        try:
            os.chdir(here)  # so that relative paths, and the names of images, are those of the command
            self.parts = open_parts(workers)
        except OSError as error:
            self.parts = UserError(f"{here} does not exist on a machine of this Ray cluster: {error.strerror}")
        except UserError as error:
            self.parts = error

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        return {"part": rows["part"], "error": [self._write(int(number)) for number in rows["part"]]}

    def _write(self, number: int) -> str:
        """Write a part, and return the error, if any, otherwise an empty text."""
        try:
            if isinstance(self.parts, UserError):
                raise self.parts
            if number not in self.parts.done():  # another actor may have written it and been lost before it reported
                self.parts.write([number])
        except UserError as error:
            return str(error)
        return ""


def write_on_ray(
    open_parts: Callable[[int], TableParts],
    numbers: Sequence[int],
    logger: Logger,
    *,
    address: str,
    actors: int = 0,
    device: str = "auto",
    workers: int = -1,
    what: str = "embedding",
) -> None:
    """Write parts by actors of Ray Data.

    Args:
        open_parts: called by each actor with the number of its loader workers; it is pickled by its name, so Coterie must be
            installed where the actors are.
        numbers: of the parts.
        logger: receives progress.
        address: ``local`` for a Ray of its own on this machine, ``auto`` or an address for a running cluster.
        actors: most actors; 0: one per GPU of the cluster, or without GPUs one for every two cores.
        device: of an actor: ``auto``, ``cpu`` or ``cuda``.
        workers: processes of an actor that load images; -1: as many as its share of the cores, less one.
        what: name of this work for the logger.

    Raises:
        UserError: Ray is not installed or not running, or an actor failed; the existing parts are complete.
    """
    with _ray(address) as ray:
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
        if gpu and not gpus:
            raise UserError(f"--device is {device}, but this Ray cluster has no GPU: use --device cpu")
        most = actors or (gpus if gpu else max(1, cores // 2))
        share = max(1, cores // most)
        loaders = workers if workers >= 0 else max(1, min(_MAX_WORKERS, share - 1))
        written = ray.data.from_items(
            [{"part": number} for number in numbers], override_num_blocks=len(numbers)
        ).map_batches(
            _Writer,
            fn_constructor_args=(open_parts, loaders, str(Path.cwd())),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2),
            num_cpus=share,
            num_gpus=1 if gpu else 0,
        )
        for row in logger.progress(written.iter_rows(), len(numbers), f"{what}, in parts"):
            if row["error"]:
                raise UserError(str(row["error"]))


def import_ray() -> Any:
    """Ray, with its data library.

    Raises:
        UserError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # otherwise it reports statistics to its makers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"--ray needs more packages: pip install 'coterie[ray]' ({error})") from error
    return ray


@contextmanager
def _ray(address: str) -> Iterator[Any]:
    """Connect to Ray, silence it, and disconnect afterwards unless it was connected before.

    Raises:
        UserError: it is not running, or it failed.
    """
    ray = import_ray()
    connect = not ray.is_initialized()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if connect and address == "local":
            # Its workers would run at niceness 15: beside any busy process they would hardly run at all.
            os.environ.setdefault("RAY_worker_niceness", "0")
            cores = len(usable_cores())
            own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            ray.init(address="local", **own, **quiet)
        elif connect:
            ray.init(address=address, **quiet)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has installed a handler of its own
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it also logs, at length, what it raises
        yield ray
    except ray.exceptions.RayTaskError:  # a bug of ours
        raise
    except (ConnectionError, ray.exceptions.RayError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"Ray failed ({reason}): run the same command again to write the missing parts") from error
    finally:
        if connect and ray.is_initialized():
            ray.shutdown()
