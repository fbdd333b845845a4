from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.emulator import (
    Address,
    LinkClock,
    Outage,
    emulate,
    format_address,
    parse_address,
    run_emulator,
)
from partc.errors import PartcError, TargetError
from partc.plan import Conditions

Result = TypeVar("Result")

MB = 1_000_000
ANY_PORT = ("127.0.0.1", 0)
FAST = Conditions(uplink_mbps=400, downlink_mbps=400, round_trip_ms=2)
LTE = Conditions(uplink_mbps=5.85, downlink_mbps=12, round_trip_ms=70)


@dataclass(frozen=True)
class End:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, nbytes: int) -> float:
        """Read so much; when its last byte came."""
        await self.reader.readexactly(nbytes)
        return asyncio.get_running_loop().time()

    def limit_buffer(self, which: int, nbytes: int) -> None:
        """Set ``SO_SNDBUF`` or ``SO_RCVBUF``, which then do not grow."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, which, nbytes)

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()


@dataclass(frozen=True)
class Server:
    """A server that hands over its end of every connection, and closes all ends at last."""

    address: Address
    accepted: asyncio.Queue[End]
    ends: list[End]

    async def connect(self, address: Address) -> tuple[End, End]:
        """The client's and the server's end of a new connection over ``address``."""
        client = End(*await asyncio.open_connection(*address))
        self.ends.append(client)
        return client, await self.accepted.get()


@asynccontextmanager
async def serving() -> AsyncGenerator[Server, None]:
    accepted: asyncio.Queue[End] = asyncio.Queue()
    ends: list[End] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(End(reader, writer))
        accepted.put_nowait(ends[-1])

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Server(listener.sockets[0].getsockname(), accepted, ends)
    finally:
        for end in ends:
            end.writer.transport.abort()
        listener.close()
        await listener.wait_closed()


Connect = Callable[[], Awaitable[tuple[End, End]]]


@asynccontextmanager
async def linked(
    conditions: Conditions, outages: Iterable[Outage] = ()
) -> AsyncGenerator[Connect, None]:
    """Yields what makes a connection over an emulated link: its client's and its server's end."""
    async with (
        serving() as server,
        emulate(ANY_PORT, server.address, conditions, outages) as address,
    ):
        yield lambda: server.connect(address)


async def transfer_s(source: End, sink: End, nbytes: int) -> float:
    """How long it takes from the first byte's departure to the last one's arrival."""
    start_s = asyncio.get_running_loop().time()
    _, end_s = await asyncio.gather(source.write(bytes(nbytes)), sink.read(nbytes))
    return end_s - start_s


def run(scenario: Coroutine[None, None, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(scenario, timeout=10))


def check_durations(
    scenario: Callable[[], Coroutine[None, None, list[float]]],
    expected_s: float,
    earliest: float = 0.99,
    latest: float = 1.05,
) -> None:
    """Never early; late only if the machine is busy, which it is not three times in a row."""
    measured: list[float] = []
    for _ in range(3):
        measured = run(scenario())
        assert min(measured) >= expected_s * earliest, f"{measured} s, expected {expected_s} s"
        if max(measured) <= expected_s * latest:
            return
    pytest.fail(f"took {measured} s, expected {expected_s} s")


@pytest.mark.parametrize(
    ("uplink_mbps", "downlink_mbps", "round_trip_ms", "upwards", "expected_s"),
    [
        (32, 1, 0, True, 0.5),
        (1, 20, 40, False, 0.82),
        (16, 400, 200, True, 1.1),
        (8, 32, 500, False, 0.75),
    ],
)
def test_a_transfer_takes_what_arithmetic_says(
    uplink_mbps: float, downlink_mbps: float, round_trip_ms: float, upwards: bool, expected_s: float
) -> None:
    async def scenario() -> list[float]:
        async with linked(Conditions(uplink_mbps, downlink_mbps, round_trip_ms)) as connect:
            client, server = await connect()
            ends = (client, server) if upwards else (server, client)
            return [await transfer_s(*ends, 2 * MB)]

    check_durations(scenario, expected_s)


def test_a_small_message_and_its_answer_take_a_round_trip() -> None:
    async def scenario() -> list[float]:
        async with linked(Conditions(10, 10, round_trip_ms=100)) as connect:
            client, server = await connect()
            round_trips_s = [
                await transfer_s(client, server, 1) + await transfer_s(server, client, 1)
                for _ in range(8)
            ]
            return sorted(round_trips_s)[:5]  # up to the median; the machine may be busy

    check_durations(scenario, expected_s=0.1)


def test_a_new_connection_costs_a_round_trip() -> None:
    async def scenario() -> list[float]:
        start_s = asyncio.get_running_loop().time()
        async with linked(Conditions(10, 10, round_trip_ms=200)) as connect:
            await connect()
            return [asyncio.get_running_loop().time() - start_s]

    check_durations(scenario, expected_s=0.2)


def test_two_connections_share_the_rate() -> None:
    async def scenario() -> list[float]:
        async with linked(Conditions(16, 1, round_trip_ms=20)) as connect:
            ends = [await connect(), await connect()]
            return await asyncio.gather(*(transfer_s(*pair, MB) for pair in ends))

    check_durations(scenario, expected_s=1.0, earliest=0.95)


def test_a_message_does_not_wait_for_other_connections_to_finish() -> None:
    async def scenario() -> list[float]:
        async with linked(Conditions(16, 1, round_trip_ms=100)) as connect:
            bulk, message = [await connect() for _ in range(3)], await connect()
            sending = [asyncio.create_task(transfer_s(*ends, MB)) for ends in bulk]
            await asyncio.sleep(0.2)
            latency_s = await transfer_s(*message, 1000)
            for task in sending:
                task.cancel()
            return [latency_s]

    # Half a round trip, the line's queue of 20 ms, and a chunk of 2 ms from each connection.
    check_durations(scenario, expected_s=0.076, earliest=50 / 76, latest=1.15)


def test_both_directions_have_their_own_rate() -> None:
    async def scenario() -> list[float]:
        async with linked(Conditions(16, 16, round_trip_ms=40)) as connect:
            client, server = await connect()
            directions = ((client, server), (server, client))
            return await asyncio.gather(*(transfer_s(*ends, MB) for ends in directions))

    check_durations(scenario, expected_s=0.52)


def test_an_outage_delays_by_its_length() -> None:
    async def scenario() -> list[float]:
        outages = [Outage(start_s=0.3, duration_s=0.4)]
        async with linked(Conditions(16, 16, round_trip_ms=100), outages) as connect:
            return [await transfer_s(*await connect(), MB)]

    check_durations(scenario, expected_s=0.95)


def test_bytes_in_the_air_wait_for_the_end_of_an_outage() -> None:
    async def scenario() -> list[float]:
        outages = [Outage(start_s=0.3, duration_s=0.3)]
        async with linked(Conditions(16, 16, round_trip_ms=200), outages) as connect:
            ends = await connect()  # at 0.2 s, so that the message is to arrive at 0.3 s
            await asyncio.sleep(0.05)
            return [await transfer_s(*ends, 1)]

    check_durations(scenario, expected_s=0.4)


@pytest.mark.parametrize(
    ("uplink_mbps", "reading", "most_nbytes"),
    [
        # 0.25 MB go over the line in the time of the test.
        pytest.param(4, True, MB, id="slow-line"),
        # 62.5 MB could. 2.6 MB may be under way, 4 MB in the buffer that the emulator sends from.
        pytest.param(1000, False, 12 * MB, id="idle-receiver"),
    ],
)
def test_a_sender_is_held_back(uplink_mbps: float, reading: bool, most_nbytes: int) -> None:
    async def scenario() -> int:
        async with linked(Conditions(uplink_mbps, 1, round_trip_ms=2)) as connect:
            client, server = await connect()
            client.limit_buffer(socket.SO_SNDBUF, 64 * 1024)
            server.limit_buffer(socket.SO_RCVBUF, 64 * 1024)
            receiving = asyncio.create_task(server.reader.read(-1 if reading else 0))
            client.writer.write(bytes(100 * MB))
            await asyncio.sleep(0.5)
            receiving.cancel()
            return 100 * MB - client.writer.transport.get_write_buffer_size()

    assert 0.2 * MB < run(scenario()) < most_nbytes


def test_bytes_arrive_unchanged_and_half_closes_are_passed_on() -> None:
    data = random.Random(1).randbytes(5 * MB)  # noqa: S311 - test data

    async def answer(server: End) -> None:
        received = await server.reader.read(-1)
        await server.write(hashlib.sha256(received).digest() + received[::-1])
        server.writer.write_eof()

    async def scenario() -> bytes:
        async with linked(FAST) as connect:
            client, server = await connect()
            answering = asyncio.create_task(answer(server))
            await client.write(data)
            client.writer.write_eof()
            received = await client.reader.read(-1)
            await answering
            return received

    assert run(scenario()) == hashlib.sha256(data).digest() + data[::-1]


def test_a_receiver_may_take_its_time_after_the_connection_has_ended() -> None:
    async def scenario() -> bytes:
        async with linked(FAST) as connect:
            client, server = await connect()
            client.limit_buffer(socket.SO_RCVBUF, 64 * 1024)
            client.writer.write_eof()
            await server.write(bytes(MB))
            server.writer.write_eof()
            await asyncio.sleep(0.1)  # the emulator has closed its sockets by then
            return await client.reader.read(-1)

    assert run(scenario()) == bytes(MB)


@pytest.mark.parametrize("by_client", [True, False])
def test_a_reset_is_passed_on_behind_what_was_sent(by_client: bool) -> None:
    async def scenario() -> bytes:
        async with linked(FAST) as connect:
            client, server = await connect()
            source, sink = (client, server) if by_client else (server, client)
            await source.write(b"last words")
            await asyncio.sleep(0.05)
            source.reset()
            said = await sink.reader.readexactly(len(b"last words"))
            with pytest.raises(ConnectionResetError):
                await sink.reader.read(1)
            return said

    assert run(scenario()) == b"last words"


def test_stopping_the_emulator_resets_its_connections() -> None:
    async def scenario() -> None:
        async with serving() as server:
            async with emulate(ANY_PORT, server.address, FAST) as address:
                ends = await server.connect(address)
            for end in ends:
                with pytest.raises(ConnectionResetError):
                    await end.reader.read(1)

    run(scenario())


def test_a_target_that_refuses_resets_the_client(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        to: Address = closed.getsockname()

    async def scenario() -> None:
        async with emulate(ANY_PORT, to, FAST) as address:
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                with pytest.raises(ConnectionResetError):
                    await reader.read(1)
                writer.close()

    run(scenario())
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(f"cannot reach {format_address(to)}: ")


def test_a_port_in_use_is_the_users_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        listen: Address = used.getsockname()
        with pytest.raises(PartcError, match=rf"127\.0\.0\.1:{listen[1]}: the port is in use"):
            run_emulator(listen, listen, LTE, announce=pytest.fail)


def test_an_address_of_another_machine_is_the_users_mistake() -> None:
    with pytest.raises(PartcError, match=r"^cannot listen on 192\.0\.2\.1:0: "):
        run_emulator(("192.0.2.1", 0), ("127.0.0.1", 1), LTE, announce=pytest.fail)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_announces_itself_and_stops_on_a_signal(signum: signal.Signals) -> None:
    lines: list[str] = []

    def announce(line: str) -> None:
        lines.append(line)
        signal.raise_signal(signum)

    run_emulator(ANY_PORT, ("::1", 8001), LTE, announce, name="lte")
    (line,) = lines
    ends, _, rates = line.partition(", ")
    listen, _, to = ends.removeprefix("lte: ").partition(" -> ")
    assert parse_address(listen)[1] > 0
    assert to == "[::1]:8001"
    assert rates == "5.85 Mbit/s up, 12 Mbit/s down, 70 ms round trip"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9001", ("127.0.0.1", 9001)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert format_address(address) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected HOST:PORT"),
        ("9001", "expected HOST:PORT"),
        (":9001", "expected HOST:PORT"),
        ("[]:9001", "expected HOST:PORT"),
        ("localhost", "expected HOST:PORT"),
        ("::1:9001", "expected brackets"),
        ("[::1]", "expected brackets"),
        ("localhost:", "expected a port"),
        ("localhost:http", "expected a port"),
        ("localhost:65536", "expected a port"),
        ("localhost:-1", "expected a port"),
        ("localhost:٣", "expected a port"),
    ],
)
def test_what_is_no_address_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PartcError, match=f"^{problem}.*got "):
        parse_address(text)


@pytest.mark.parametrize("times_s", [(-1, 1), (0, 0), (0, float("inf")), (float("nan"), 1)])
def test_an_impossible_outage_is_refused(times_s: tuple[float, float]) -> None:
    with pytest.raises(TargetError, match="an outage needs"):
        Outage(*times_s)


def test_overlapping_outages_are_refused() -> None:
    outages = [Outage(4, 1), Outage(1, 3.5)]
    with pytest.raises(TargetError, match="the outage at 4 s starts before the one at 1 s ends"):
        run_emulator(ANY_PORT, ("127.0.0.1", 1), LTE, pytest.fail, outages=outages)


def make_clock(outages: Iterable[Outage]) -> LinkClock:
    async def make() -> LinkClock:
        return LinkClock(outages)

    return run(make())


def test_a_link_clock_stands_still_during_outages() -> None:
    clock = make_clock([Outage(5, 1), Outage(2, 1)])
    assert [clock.link_s(wall_s) for wall_s in (1, 2, 2.5, 3, 4, 5.5, 7)] == [1, 2, 2, 2, 3, 4, 5]
    assert [clock.wall_s(link_s) for link_s in (1, 2, 3, 4, 5)] == [1, 3, 4, 6, 7]


@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=4),
    link_s=st.integers(0, 60),
)
def test_a_link_clock_reads_back_its_deadlines(lengths: list[tuple[int, int]], link_s: int) -> None:
    outages: list[Outage] = []
    end_s = 0.0
    for gap_s, duration_s in lengths:
        outages.append(Outage(end_s + gap_s, duration_s))
        end_s = outages[-1].end_s
    clock = make_clock(outages)
    assert clock.link_s(clock.wall_s(link_s)) == link_s
