"""Connections of clients that are slow, by intent or not: each state of one has its time."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from llmx_serve.limits import Limits


class PatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, with an end to patience.

    A connection is cut where the head of a request, or the rest of a body that was refused, does not come within
    `header_s`; and where a client leaves the send buffer full for `stall_s`, so that what it asked for is let go.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        """Start the time of a head that is awaited, or end it where a request is being answered."""
        awaited = self.cycle is None or self.cycle.response_complete
        if not awaited and self._late is not None:
            self._late.cancel()
            self._late = None
        elif awaited and self._late is None:
            self._late = self.loop.call_later(self.limits.header_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade had been asked for: what uvicorn advises to install is of no use here."""

    def pause_writing(self) -> None:
        """The send buffer is full."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, at last without waiting for a client that does not read what was sent."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.limits.stall_s, self.transport.abort)


def patient(limits: Limits) -> type[PatientProtocol]:
    """Return the protocol with these limits."""
    return type("Protocol", (PatientProtocol,), {"limits": limits})
