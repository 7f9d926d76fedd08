"""A real S3 server on this machine (moto's) that can be stopped and restarted, and a connection to it that breaks."""

import contextlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator

import numpy as np
from PIL import Image


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tar(first: int, count: int, **labels: str) -> bytes:
    """A tar shard of images with the seeds ``first`` and up; ``cls`` labels them all."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as shard:
        for number in range(first, first + count):
            for kind, data in [("png", png(number)), *((kind, text.encode()) for kind, text in labels.items())]:
                member = tarfile.TarInfo(f"{number:05d}.{kind}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return file.getvalue()


class Store:
    """moto's server; its objects survive a stop."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self) -> None:
        self.server.stop()

    def put(self, path: str, data: bytes) -> None:
        """Write an object, as another client would."""
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")
        bucket, _, key = path.partition("/")
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=key, Body=data)
        client.close()

    def delete(self, path: str) -> None:
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")
        bucket, _, key = path.partition("/")
        client.delete_object(Bucket=bucket, Key=key)
        client.close()


@contextlib.contextmanager
def breaking_line(port: int, cuts: int, after: int) -> Iterator[tuple[int, list[int]]]:
    """Forward a port to another; the first ``cuts`` responses longer than ``after`` bytes are cut off there.

    Yields:
        The port, and how many bytes of each response came through.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    answers: list[int] = []

    def copy(source: socket.socket, target: socket.socket, answer: bool) -> None:
        nonlocal cuts
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(2**14):
                target.sendall(data)
                passed += len(data)
                if answer and passed > after and cuts:
                    cuts -= 1
                    break
        if answer:
            answers.append(passed)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=copy, args=(near, far, False), daemon=True).start()
                threading.Thread(target=copy, args=(far, near, True), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1], answers
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
