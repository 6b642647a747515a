"""Serve models to this machine, or to a network with a key, until SIGTERM or Ctrl-C.

Asked to end, the server takes no more requests (503, and so says its health), finishes what it accepted within the grace
it was given, and ends with exit code 0; asked twice, it ends at once. Not covered: TLS, several processes, and keys of
several users; a proxy in front does that.
"""

import errno
import os
import socket
import time
from pathlib import Path
from types import FrameType

import uvicorn

from sapience.recipe import UserError
from sapience.serving.api import House, serving_app
from sapience.serving.connection import connections
from sapience.serving.engine_thread import EngineThread
from sapience.serving.gate import is_local
from sapience.serving.limits import Limits
from sapience.serving.models import Shelf, Speaker, load_speaker, offered

KEY = "SAPIENCE_API_KEY"
SEND_BUFFER = 64 << 10
"""Of a connection, in the kernel: what a client that does not read can make the server keep, and how soon that is noticed."""
LAST_SECONDS = 2
"""For replies to be written when the grace is over."""


class Server(uvicorn.Server):
    """Ends in two steps: doors closed, then all gone."""

    def __init__(self, house: House) -> None:
        limits = house.limits
        super().__init__(
            uvicorn.Config(
                serving_app(house), log_level="warning", access_log=False, server_header=False, ws="none", lifespan="on",
                http=connections(limits.arrival_seconds), h11_max_incomplete_event_size=limits.header_bytes,
                timeout_graceful_shutdown=LAST_SECONDS, proxy_headers=False,
            )
        )  # fmt: skip
        self._house = house
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In place of uvicorn's, which closes the door in everybody's face and raises the signal again at the end."""
        if self._until is not None:
            self._until = 0.0
        else:
            self.drain()

    def drain(self) -> None:
        """Take no more, and end when nothing is left to do or the grace is over."""
        self._house.doors.closing = True
        self._until = time.monotonic() + self._house.limits.grace

    async def on_tick(self, counter: int) -> bool:
        if self._until is not None:
            if time.monotonic() > self._until:
                self._house.thread.end_all()
                self.should_exit = True
            elif not self._house.doors.active:
                self.should_exit = True
        return await super().on_tick(counter)


def serve(
    folder: Path, host: str, port: int, limits: Limits, rows: int, positions: int | None, draft: int, eight_bits: bool
) -> None:
    """Serve a model and the others of its run; port 0 is any free one. `draft`: tokens drafted ahead. The rest: see `Engine`.

    Raises UserError for an address that cannot be had, one beyond this machine without a key, or a model that cannot be
    loaded.
    """
    key = os.environ.get(KEY, "")
    if not key and not is_local(host):
        raise UserError(
            f"{host} can be reached from other machines, and there is no key to keep them out: set {KEY}, or serve to this "
            "machine with --host 127.0.0.1"
        )
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UserError(f"{KEY} has characters that no header can bear: use ASCII letters, digits and signs")
    chosen, folders = offered(folder)
    with listen(host, port) as listener:
        thread = EngineThread()

        def load(asked: Path) -> Speaker:
            return load_speaker(asked, rows, positions, draft, eight_bits)

        speaker = load(folder)
        house = House(thread, Shelf(folders, thread, load), limits, key)
        house.shelf.put(chosen, speaker)
        address = address_of(listener)
        others = f", {len(folders) - 1} more when asked for" if len(folders) > 1 else ""
        print(f"serving {chosen}{others}: page {address}/  API {address}/v1  (stop with Ctrl-C)", flush=True)
        Server(house).run(sockets=[listener])
    print("serving stopped", flush=True)


def address_of(listener: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host} port {port} is no address of this machine ({error}): choose another --host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        listener.bind(address)
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is taken by another program: choose another with --port, or 0 for any free one"
            ) from None
        raise UserError(f"{host} port {port} cannot be used ({error}): choose another --host or --port") from None
    return listener
