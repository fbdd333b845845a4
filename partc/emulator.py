"""A TCP relay that behaves like a slow link: a rate, a delay and outages.

What a client sends goes over the *uplink*, what the server answers over the *downlink*. Each is
one bottleneck that all connections share: they take turns, a chunk at a time, so that none
starves. A chunk leaves when the line has sent its last byte and arrives half a round trip later;
many are under way at once, so delay costs no throughput. A sender that is faster than the line is
held back, as by a router with a short queue. Rates count the bytes that applications send; the
overhead of TCP and IP is not modelled.

A new connection waits one round trip before anything is relayed, as a TCP handshake would. The
client's ``connect`` itself returns at once: the wait shows up in its first answer.

Deadlines follow from a virtual clock of each line, never from how long a sleep really took, so
that the coarse timers of an operating system do not add up to a slower link.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import signal
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

from partc.errors import PartcError, TargetError
from partc.plan import Conditions

Address = tuple[str, int]

MTU_NBYTES = 1500
CHUNK_S = 0.002
# Long enough that the event loop may wake up late without leaving the line idle.
QUEUE_S = 0.020
ACCEPT_RETRY_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outage:
    """A time during which nothing moves on the link, counted from the emulator's start."""

    start_s: float
    duration_s: float

    def __post_init__(self) -> None:
        if not (0 <= self.start_s < math.inf and 0 < self.duration_s < math.inf):
            raise TargetError(
                "an outage needs a start of at least 0 s and a duration above 0 s, "
                f"but this one starts at {self.start_s:g} s and lasts {self.duration_s:g} s"
            )

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


def parse_address(text: str) -> Address:
    """Read ``host:port``; an IPv6 host stands in brackets, ``[::1]:9001``.

    Raises:
        PartcError: The text is no such address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or host in ("", "[]"):
        raise PartcError(f"expected HOST:PORT such as 127.0.0.1:9001, got {text!r}")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise PartcError(f"expected brackets around an IPv6 host, as in [::1]:9001, got {text!r}")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise PartcError(f"expected a port from 0 to 65535 after the last colon, got {text!r}")
    return (host[1:-1] if bracketed else host), int(port)


def format_address(address: Address) -> str:
    """The text that :func:`parse_address` reads."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run_emulator(
    listen: Address,
    to: Address,
    conditions: Conditions,
    announce: Callable[[str], None],
    *,
    name: str = "link",
    outages: Iterable[Outage] = (),
) -> None:
    """Emulate a link until SIGINT or SIGTERM; call it from the main thread.

    Args:
        listen: Where clients connect; port 0 takes a free one.
        to: The server that they shall reach.
        conditions: The link; its ``load`` plays no part.
        announce: Called once, when clients can connect, with a line that names the addresses.
        name: What that line calls the link.
        outages: Counted from the start of the emulator.

    Raises:
        PartcError: ``listen`` cannot be listened on.
        TargetError: Two outages overlap.
    """

    async def run() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        async with emulate(listen, to, conditions, outages) as address:
            announce(describe_link(name, address, to, conditions))
            await stop.wait()

    asyncio.run(run())


def describe_link(name: str, listen: Address, to: Address, conditions: Conditions) -> str:
    """One line: a link's name, both its ends, its rates and its round trip."""
    return (
        f"{name}: {format_address(listen)} -> {format_address(to)}, "
        f"{conditions.uplink_mbps:g} Mbit/s up, {conditions.downlink_mbps:g} Mbit/s down, "
        f"{conditions.round_trip_ms:g} ms round trip"
    )


@asynccontextmanager
async def emulate(
    listen: Address, to: Address, conditions: Conditions, outages: Iterable[Outage] = ()
) -> AsyncGenerator[Address, None]:
    """Emulate a link while the context is open; what is then under way is reset.

    Takes what :func:`run_emulator` takes and raises what it raises.

    Yields:
        The address that clients connect to.
    """
    link = _Link(to, conditions, outages)
    with _listen(listen) as listener:
        accepting = asyncio.create_task(_accept(listener, link))
        try:
            yield listener.getsockname()[:2]
        finally:
            await _cancel([accepting])


class LinkClock:
    """Seconds since the emulator started, standing still during outages.

    All deadlines of a link are in this time, so that an outage delays whatever it meets, bytes
    on the line and bytes in the air, by its length.
    """

    def __init__(self, outages: Iterable[Outage]) -> None:
        self._outages = sorted(outages, key=lambda outage: outage.start_s)
        for first, second in pairwise(self._outages):
            if second.start_s < first.end_s:
                raise TargetError(
                    f"the outage at {second.start_s:g} s starts before the one at "
                    f"{first.start_s:g} s ends, at {first.end_s:g} s; give them as one"
                )
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()

    def now(self) -> float:
        return self.link_s(self._wall_now())

    async def sleep_until(self, link_s: float) -> None:
        await asyncio.sleep(self.wall_s(link_s) - self._wall_now())

    def link_s(self, wall_s: float) -> float:
        """How long the link has worked when ``wall_s`` have passed."""
        return wall_s - sum(
            min(max(wall_s - outage.start_s, 0.0), outage.duration_s) for outage in self._outages
        )

    def wall_s(self, link_s: float) -> float:
        """When the link has worked for ``link_s``; the end of an outage rather than its start."""
        wall_s = link_s
        for outage in self._outages:
            if wall_s >= outage.start_s:
                wall_s += outage.duration_s
        return wall_s

    def _wall_now(self) -> float:
        return self._loop.time() - self._started_s


class _Line:
    """One direction of a link: a rate that connections share in turn, then a delay."""

    def __init__(self, clock: LinkClock, rate_mbps: float, delay_s: float) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._nbytes_per_s = rate_mbps * 1e6 / 8
        self._free_s = 0.0
        self._turn = asyncio.Lock()  # wakes those who wait in the order in which they came
        self.chunk_nbytes = max(MTU_NBYTES, int(self._nbytes_per_s * CHUNK_S))
        in_flight_nbytes = int(self._nbytes_per_s * (delay_s + QUEUE_S))
        self.window_nbytes = in_flight_nbytes + self.chunk_nbytes

    async def send(self, nbytes: int, offered_s: float) -> float:
        """Take a turn on the line, once its queue is short enough.

        Args:
            nbytes: The size of the chunk.
            offered_s: When the sender had it ready, in link time.

        Returns:
            When the chunk's last byte arrives, in link time.
        """
        async with self._turn:
            await self._clock.sleep_until(self._free_s - QUEUE_S)
            self._free_s = max(self._free_s, offered_s) + nbytes / self._nbytes_per_s
            return self._free_s + self._delay_s


@dataclass(frozen=True)
class _Packet:
    """Bytes on their way; none if the sender ended its half, None if it reset the connection."""

    data: bytes | None
    arrival_s: float

    @property
    def nbytes(self) -> int:
        return len(self.data or b"")


class _Flight:
    """The packets of one connection between line and receiver, no more than a window of them."""

    def __init__(self, window_nbytes: int) -> None:
        self._window_nbytes = window_nbytes
        self._nbytes = 0
        self._packets: asyncio.Queue[_Packet] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        await self._room.wait()

    def launch(self, packet: _Packet) -> None:
        self._packets.put_nowait(packet)
        self._count(packet.nbytes)

    async def next(self) -> _Packet:
        return await self._packets.get()

    def landed(self, packet: _Packet) -> None:
        self._count(-packet.nbytes)

    def _count(self, nbytes: int) -> None:
        self._nbytes += nbytes
        if self._nbytes <= self._window_nbytes:
            self._room.set()
        else:
            self._room.clear()


class _Link:
    """Both lines, and what happens to a connection between its two sockets."""

    def __init__(self, to: Address, conditions: Conditions, outages: Iterable[Outage]) -> None:
        self._to = to
        self._round_trip_s = conditions.round_trip_ms / 1e3
        self._clock = LinkClock(outages)
        self._uplink = self._line(conditions.uplink_mbps)
        self._downlink = self._line(conditions.downlink_mbps)

    def _line(self, rate_mbps: float) -> _Line:
        return _Line(self._clock, rate_mbps, self._round_trip_s / 2)

    async def relay(self, client: socket.socket) -> None:
        """Serve one client until both sides have ended, or one has failed."""
        with client:
            _prepare(client)
            await self._clock.sleep_until(self._clock.now() + self._round_trip_s)
            try:
                server = await _connect(self._to)
            except OSError as error:
                _log.warning("cannot reach %s: %s", format_address(self._to), error)
                return
            with server:
                await self._relay_both_ways(client, server)

    async def _relay_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        up, down = _Flight(self._uplink.window_nbytes), _Flight(self._downlink.window_nbytes)
        try:
            await _all_or_none(
                self._send(client, self._uplink, up),
                self._deliver(up, server),
                self._send(server, self._downlink, down),
                self._deliver(down, client),
            )
        except OSError as error:
            _log.info("connection reset: %s", error)
        else:
            _close_in_order(client)
            _close_in_order(server)

    async def _send(self, source: socket.socket, line: _Line, flight: _Flight) -> None:
        """Put what a socket says on the line, up to its end or its reset."""
        while True:
            await flight.room()
            data = await _receive(source, line.chunk_nbytes)
            arrival_s = await line.send(len(data or b""), self._clock.now())
            flight.launch(_Packet(data, arrival_s))
            if not data:
                return

    async def _deliver(self, flight: _Flight, sink: socket.socket) -> None:
        """Hand packets to a socket when they arrive.

        Raises:
            OSError: Either end of the connection was reset.
        """
        while True:
            packet = await flight.next()
            await self._clock.sleep_until(packet.arrival_s)
            if packet.data is None:
                raise ConnectionResetError(errno.ECONNRESET, "reset by its sender")
            if not packet.data:
                return sink.shutdown(socket.SHUT_WR)
            await asyncio.get_running_loop().sock_sendall(sink, packet.data)
            flight.landed(packet)


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else str(error)
        raise PartcError(
            f"cannot listen on {format_address(address)}: {reason}; "
            "choose another address, or port 0 for any free port"
        ) from error
    listener.setblocking(False)
    return listener


async def _accept(listener: socket.socket, link: _Link) -> None:
    """Relay every client that connects, each in a task of its own."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            connection = asyncio.create_task(link.relay(client))
            connections.add(connection)
            connection.add_done_callback(connections.discard)
    finally:
        await _cancel(list(connections))


async def _connect(address: Address) -> socket.socket:
    """Connect to the first of a host's addresses that answers.

    Raises:
        OSError: None does, or the host is unknown.
    """
    loop = asyncio.get_running_loop()
    failure = OSError("the host has no address")
    for family, kind, protocol, _, resolved in await loop.getaddrinfo(
        *address, type=socket.SOCK_STREAM
    ):
        server = socket.socket(family, kind, protocol)
        try:
            _prepare(server)
            await loop.sock_connect(server, resolved)
        except OSError as error:
            server.close()
            failure = error
        except asyncio.CancelledError:
            server.close()
            raise
        else:
            return server
    raise failure


async def _receive(source: socket.socket, nbytes: int) -> bytes | None:
    """What a socket says next; empty at its end, None when it was reset."""
    try:
        return await asyncio.get_running_loop().sock_recv(source, nbytes)
    except OSError:
        return None


def _prepare(connection: socket.socket) -> None:
    """Send small messages at once, and reset the peer unless the connection ends in order."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _close_in_order(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


async def _all_or_none(*steps: Coroutine[None, None, None]) -> None:
    """Run coroutines side by side; when one fails, stop the others and raise its error."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
