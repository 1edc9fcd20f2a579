"""Memory is used again, but never under somebody's eyes."""

from __future__ import annotations

from tests.unit.stream.samples import header
from thinsync_virt.stream.events import Data
from thinsync_virt.stream.memory import RecycledMemory
from thinsync_virt.stream.reader import StreamReader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB, MIB


def test_what_nobody_sees_is_given_again() -> None:
    memory = RecycledMemory()
    first = memory(MIB)
    view = memoryview(first)[:10]
    second = memory(MIB)
    assert second is not first
    view.release()
    assert memory(MIB) is first
    assert len(first) == MIB
    assert memory(512 * KIB) is first, "a part of it is enough"


def test_a_larger_one_is_made_and_few_are_kept() -> None:
    memory = RecycledMemory()
    small = memory(64 * KIB)
    assert memory(128 * KIB) is not small
    views = [memoryview(memory(MIB)) for _ in range(10)]
    assert len({id(view.obj) for view in views}) == 10


def test_events_that_are_kept_stay_as_they_were() -> None:
    """Every third event is held for ever, the others are let go at once."""
    writer, reader = StreamWriter(), StreamReader()
    reader.feed(b"".join(writer.begin(header(sizes=(40 * MIB,)))))
    held: list[tuple[int, Data]] = []
    places = set()
    for number in range(30):
        for piece in writer.data(0, number * MIB, bytes([number + 1]) * MIB):
            for event in reader.feed(piece):
                assert isinstance(event, Data)
                places.add(id(event.data.obj))
                if number % 3 == 0:
                    held.append((number, event))
    for number, event in held:
        assert event.data == bytes([number + 1]) * MIB
    assert len(places) < 25, "some memory was used again"
