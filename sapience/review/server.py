"""Serve the review page to this machine until Ctrl-C.

Not covered: serving to a network. People on other machines serve the page to themselves and share the queue's address.
"""

import errno
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn

from sapience.recipe import UserError
from sapience.review.page import review_app
from sapience.review.queue import ReviewQueue, queue_url

HOST = "127.0.0.1"
GRACE_SECONDS = 5
"""How long requests under way may take after Ctrl-C."""


def serve(run: Path, url: str | None, port: int, open_browser: bool, votes: int = 1) -> None:
    """Serve a run's queue, or the one at a database address, on a port of 127.0.0.1 (0: any free one).

    An item counts as waiting until `votes` people said something of it.
    Raises UserError for a run that is not there, a queue that cannot be opened, or a port that cannot be had.
    """
    if url is None and not run.is_dir():
        raise UserError(f"there is no run {run}: give the run whose answers wait, or a queue's database address")
    queue = ReviewQueue.open(url or queue_url(run), votes)
    try:
        with _listen(port) as listener:
            address = f"http://{HOST}:{listener.getsockname()[1]}/"
            print(f"review: {address}  ({queue.counts().waiting} wait; stop with Ctrl-C)", flush=True)
            if open_browser:
                webbrowser.open(address)
            config = uvicorn.Config(
                review_app(queue), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
            )
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
        counts = queue.counts()
        judged = counts.accepted + counts.edited + counts.rejected + counts.compared
        print(f"review stopped: {judged} judged, {counts.waiting} wait", flush=True)
    finally:
        queue.close()


def _listen(port: int) -> socket.socket:
    """A listening socket, so that a browser opened before the server runs is answered as soon as it does."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        cause = "is taken by another program" if taken else f"cannot be used ({error})"
        raise UserError(f"port {port} {cause}: choose another, or 0 for any free one") from None
    return listener
