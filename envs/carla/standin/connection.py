"""Calls over TCP: msgpack-rpc with CARLA's results."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgpack

logger = logging.getLogger(__name__)


class Reply(Protocol):
    """Answers one call."""

    def __call__(self, result: Any) -> None: ...


Handler = Callable[["Connection", str, list[Any], Reply], None]
"""Takes the connection, the method, its arguments and how to answer: now or later."""


class Connection(asyncio.Protocol):
    """One client.

    Args:
        handle: Called for each request, in their order.
        opened, closed: Called with this connection.
    """

    def __init__(
        self, handle: Handler, opened: Callable[[Connection], None], closed: Callable[[Connection], None]
    ) -> None:
        self._handle, self._opened, self._closed = handle, opened, closed
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="replace", max_buffer_size=256 << 20)
        self._packer = msgpack.Packer(use_bin_type=True)
        self._written: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self)

    @property
    def address(self) -> str:
        """Address of this machine by which the client has come."""
        return str(self.transport.get_extra_info("sockname")[0])

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        try:
            for message in self._unpacker:
                self._take(message)
        except (msgpack.UnpackException, ValueError, TypeError, IndexError) as error:
            logger.warning("a client sent what is no call of CARLA's protocol (%s); it is disconnected", error)
            self.transport.abort()

    def _take(self, message: Any) -> None:
        kind, number, method, arguments = message
        if kind != 0 or not isinstance(method, str) or not isinstance(arguments, list):
            raise ValueError(f"message of kind {kind!r}")

        def reply(result: Any) -> None:
            if not self.transport.is_closing():
                self.transport.write(self._packer.pack([1, number, None, result]))

        self._handle(self, method, arguments[1:], reply)
