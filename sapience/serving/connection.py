"""HTTP connections that keep to limits: headers that are too long or too slow, and streams that nobody reads.

uvicorn's own protocol waits for ever for the rest of a request's headers, and answers too long ones with 400. It hides the
connection, too, which a stream has to cut where its client does not read; here the application finds it in its state.
"""

import asyncio
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sapience.serving.refusals import Refused

TOO_LARGE = 431


def connections(arrival_seconds: float) -> type[H11Protocol]:
    """The protocol for headers that arrive within so many seconds."""

    class Punctual(H11Protocol):
        """One connection."""

        _late: asyncio.TimerHandle | None = None
        _begun = False
        """Whether a part of the headers is there."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.app_state = {**self.app_state, "transport": transport}
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._begun = self.conn.their_state is h11.IDLE
            if not self._begun:
                self._expected()
            elif self._late is None:
                self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expected()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._expected()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            """In place of uvicorn's, which has one status for everything that is not HTTP."""
            error = sys.exc_info()[1]
            status = getattr(error, "error_status_hint", 400)
            what = "the headers are too long" if status == TOO_LARGE else "this is not HTTP"
            self._refuse(Refused(status, what, None, "invalid_http"))

        def _refuse(self, refused: Refused) -> None:
            headers = [("content-type", "application/json"), ("connection", "close")]
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                for event in (
                    h11.Response(status_code=refused.status, headers=headers),
                    h11.Data(data=bytes(refused.reply.body)),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _expect(self) -> None:
            self._late = self.loop.call_later(arrival_seconds, self._too_late)

        def _expected(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _too_late(self) -> None:
            self._late = None
            if not self._begun:
                self.transport.close()
                return
            self._refuse(Refused(408, "the headers did not arrive in time", None, "header_timeout"))

    return Punctual
