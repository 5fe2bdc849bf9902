"""Streams of measurements: one TCP connection per subscription, on which the server only writes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from envs.carla.standin.layouts import EPISODE_STREAM

_MOST_WAITING_BYTES = 64 << 20
"""A subscriber that has not read this much loses further messages."""


class Streams:
    """Who listens to what, and who is about to.

    A client's `listen()` returns before its subscription has arrived. The server knows from the request for the
    token that one is coming, and lets the next step wait for it.

    Args:
        subscribed: Called with the number of a stream when somebody has subscribed to it.
    """

    def __init__(self, subscribed: Callable[[int], None]) -> None:
        self.pending: set[int] = set()
        self.dropped = 0
        self._subscribed = subscribed
        self._subscribers: dict[int, set[asyncio.Transport]] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self, host: str) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Subscription(self), host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """End every subscription."""
        if self._server is not None:
            self._server.close()
        for subscribers in self._subscribers.values():
            for transport in list(subscribers):
                transport.abort()

    def expect(self, stream: int) -> None:
        """A client has asked for the token of a stream: it is about to subscribe."""
        if stream != EPISODE_STREAM and not self._subscribers.get(stream):
            self.pending.add(stream)

    def forget(self, stream: int) -> None:
        """The sensor of a stream is gone."""
        self.pending.discard(stream)
        for transport in self._subscribers.pop(stream, set()):
            transport.close()

    def wanted(self, stream: int) -> bool:
        """Whether somebody listens."""
        return bool(self._subscribers.get(stream))

    def send(self, stream: int, *parts: bytes | memoryview) -> None:
        """Send one message to all who listen."""
        subscribers = self._subscribers.get(stream)
        if not subscribers:
            return
        message = b"".join((struct.pack("<I", sum(len(part) for part in parts)), *parts))
        for transport in subscribers:
            if transport.get_write_buffer_size() > _MOST_WAITING_BYTES:
                self.dropped += 1
            else:
                transport.write(message)

    def add(self, stream: int, transport: asyncio.Transport) -> None:
        """A subscription has arrived."""
        self._subscribers.setdefault(stream, set()).add(transport)
        self.pending.discard(stream)
        self._subscribed(stream)

    def remove(self, stream: int, transport: asyncio.Transport) -> None:
        """A subscription has ended."""
        self._subscribers.get(stream, set()).discard(transport)


class _Subscription(asyncio.Protocol):
    """One connection: four bytes come, messages go."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._received = b""
        self._stream: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._stream is None:
            self._received += data
            if len(self._received) >= 4:
                (self._stream,) = struct.unpack("<I", self._received[:4])
                self._streams.add(self._stream, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None:
            self._streams.remove(self._stream, self._transport)
