"""What waits between sockets and raw, and how often something may be done: no network needed."""

from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.connector.pacing import Window
from actors.connector.rest import retry_after
from actors.connector.sink import Room, Sink


class Raw:
    """Takes batches, one at a time, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.free = anyio.Semaphore(1000)

    async def append(self, lines: Sequence[bytes]) -> None:
        await self.free.acquire()
        self.batches.append(list(lines))


def make(room: int = 10_000, linger_s: float = 0.0, batch: int = 4) -> tuple[Sink, Room]:
    shared = Room(room)
    return Sink(shared, batch, 1000, linger_s), shared


async def test_lines_leave_in_order_and_in_batches_no_larger_than_asked():
    sink, room = make()
    raw = Raw()
    said = [b"%d" % n for n in range(11)]
    for line in said:
        assert sink.put(line)
    sink.finish()
    await sink.run(raw.append)
    assert [line for batch in raw.batches for line in batch] == said
    assert [len(batch) for batch in raw.batches] == [4, 4, 3]
    assert (sink.taken, sink.written, room.used) == (11, 11, 0)


async def test_what_comes_while_an_append_is_under_way_goes_with_the_next():
    sink, _ = make()
    raw = Raw()
    raw.free = anyio.Semaphore(0)
    async with anyio.create_task_group() as tg:
        tg.start_soon(sink.run, raw.append)
        sink.put(b"1")
        await anyio.wait_all_tasks_blocked()
        sink.put(b"2")
        sink.put(b"3")
        await anyio.wait_all_tasks_blocked()
        raw.free.release()
        raw.free.release()
        sink.finish()
    assert raw.batches == [[b"1"], [b"2", b"3"]]


async def test_a_full_batch_does_not_linger():
    sink, _ = make(linger_s=60)
    raw = Raw()
    async with anyio.create_task_group() as tg:
        tg.start_soon(sink.run, raw.append)
        for n in range(5):
            sink.put(b"%d" % n)
        await sink.wait(4)
        assert [len(batch) for batch in raw.batches] == [4]
        sink.finish()
    assert [len(batch) for batch in raw.batches] == [4, 1]


async def test_a_room_that_is_full_refuses_frames_but_never_notes():
    sink, room = make(room=200)
    assert sink.put(b"x" * 100)
    assert not sink.put(b"x" * 100)
    ticket = sink.note(b"x" * 100)
    assert ticket == 2
    assert not room.roomy
    sink.forget()
    assert room.used == 0


async def test_a_ticket_is_good_once_its_line_is_in_raw():
    sink, _ = make()
    raw = Raw()
    raw.free = anyio.Semaphore(0)
    async with anyio.create_task_group() as tg:
        tg.start_soon(sink.run, raw.append)
        ticket = sink.note(b"1")
        with pytest.raises(TimeoutError), anyio.fail_after(0.02):
            await sink.wait(ticket)
        raw.free.release()
        with anyio.fail_after(20):
            await sink.wait(ticket)
        sink.finish()


@given(st.floats(0.2, 50), st.lists(st.floats(0, 3), max_size=60))
def test_a_window_never_lets_more_through_than_its_rate(per_s: float, pauses: list[float]):
    window = Window(per_s)
    now, done = 0.0, list[float]()
    for pause in pauses:
        now += pause
        now += window.wait(now)
        window.note(now)
        done.append(now)
    for start in done:
        within = [t for t in done if start <= t < start + window.window_s * (1 - 1e-9)]
        assert len(within) <= window.most


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("9" * 12, 3 * 86400.0),
        ("soon", None),
        ("nan", None),
    ],
)
def test_retry_after_is_read_as_seconds(text: str | None, seconds: float | None):
    assert retry_after(text) == seconds


def test_retry_after_is_read_as_a_date():
    assert retry_after("Fri, 01 Jan 2100 00:00:00 GMT") == 3 * 86400.0
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
