"""A TCP proxy between nodes and their broker, with a port for each node: it cuts, hangs or narrows a connection."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from stackelgrid.faults.plan import Cut, Hang, Narrow, OnConnection
from stackelgrid.transport.address import Address

_CHUNK = 4096
"""Bytes carried at a time; a narrow connection is exact to so many."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on and zero: closing resets the connection."""


class Proxy:
    """Listens on 127.0.0.1 for each of `nodes` and carries to the broker, the first server of its address.

    A context manager that runs in a thread of its own. While the broker is away, nothing listens on its port, so a
    connection is reset here as it would be refused there.
    """

    def __init__(self, broker: Address, nodes: Collection[str]) -> None:
        self._broker = broker
        self._lines = {name: _Line(*broker.servers[0]) for name in nodes}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stackelgrid-proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        for line in self._lines.values():
            asyncio.run_coroutine_threadsafe(line.listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        """Listen no more, and end every connection, also one that has just been accepted."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))

    def url(self, name: str) -> str | None:
        """Give the address at which a node finds its broker; None for a node that is not proxied."""
        return str(self._broker.at("127.0.0.1", self._lines[name].port)) if name in self._lines else None

    def disturb(self, name: str, fault: OnConnection) -> bool:
        """Start a fault of a node's connection, and return true; it is in force then. Of one not proxied it cannot."""
        if name not in self._lines:
            return False
        line = self._lines[name]

        async def begin() -> None:
            now = asyncio.get_running_loop().time()
            match fault:
                case Cut():
                    line.cut(now + fault.seconds)
                case Hang():
                    line.hung_until = max(line.hung_until, now + fault.seconds)
                case Narrow():
                    line.narrow.append((fault.bytes_per_s, now + fault.seconds))

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result()
        return True


class _Line:
    """The connections of a node to the broker."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._listener: socket.socket
        self._tasks: set[asyncio.Task[None]] = set()  # one for each connection
        self.port = 0
        self.refused_until = self.hung_until = 0.0
        self.narrow: list[tuple[float, float]] = []  # bytes a second, until when

    async def listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        # An asyncio.Server that is closed leaves open what it is accepting.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._cancel()
        while self._tasks:
            await asyncio.sleep(0)

    def cut(self, until: float) -> None:
        """Reset open connections, and new ones until then."""
        self.refused_until = max(self.refused_until, until)
        self._cancel()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has left again
            return
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        """Carry between a node and the broker until both have ended. What is cut off before is reset."""
        if asyncio.get_running_loop().time() < self.refused_until:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return
        with _reset_at_end(far_writer):
            reader, writer = await asyncio.open_connection(sock=connection)
            with _reset_at_end(writer), suppress(OSError):  # one side has reset it
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._carry(reader, far_writer, far_writer.write_eof))
                    ways.create_task(self._carry(far_reader, writer, writer.write_eof))
                for end in (writer, far_writer):
                    end.close()
                    await end.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: Callable[[], None]) -> None:
        """Carry one way, until its sender ends."""
        free_at = 0.0
        with suppress(OSError):
            while content := await reader.read(_CHUNK):
                free_at = await self._pace(len(content), free_at)
                writer.write(content)
                await writer.drain()
            end()

    async def _pace(self, size: int, free_at: float) -> float:
        """Wait until the line has carried so many bytes; return the time at which it is free again."""
        loop = asyncio.get_running_loop()
        while (wait := self.hung_until - loop.time()) > 0:
            await asyncio.sleep(wait)
        for bytes_per_s, until in self.narrow:
            if loop.time() < until:
                free_at = min(max(free_at, loop.time()) + size / bytes_per_s, until)
                await asyncio.sleep(free_at - loop.time())
        return free_at


@contextmanager
def _reset_at_end(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Reset a connection at the end unless it is closed by then."""
    try:
        yield
    finally:
        end: socket.socket | None = writer.get_extra_info("socket")
        if end is not None and not writer.is_closing():
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
