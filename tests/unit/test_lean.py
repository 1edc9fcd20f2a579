"""Stand-ins for typing's names: a named tuple is one as typing makes it."""

from __future__ import annotations

import pickle
import typing

import pytest

from thinsync_virt import lean


class Ours(lean.NamedTuple):
    """Two fields."""

    first: int
    second: str
    """Described."""

    def both(self) -> str:
        return f"{self.first}{self.second}"


class Theirs(typing.NamedTuple):
    first: int
    second: str


def test_as_typings() -> None:
    assert type(lean.NamedTuple) is not type(typing.NamedTuple)
    for make in (Ours, Theirs):
        made = make(1, second="b")
        assert (made.first, made.second) == (1, "b") == made == make(first=1, second="b")
        assert made._replace(first=2) == make(2, "b")
        assert made._fields == ("first", "second")
        assert repr(made) == f"{make.__name__}(first=1, second='b')"
        first, second = made
        assert (first, second) == (1, "b")
        assert pickle.loads(pickle.dumps(made)) == made
        with pytest.raises(AttributeError):
            made.first = 3  # type: ignore[misc]
        with pytest.raises(AttributeError):
            made.third = 3  # type: ignore[union-attr]
    assert Ours(1, "b").both() == "1b"
    assert isinstance(Ours(1, "b")._replace(second="c"), Ours)


@pytest.mark.parametrize("wrong", [(), (1,), (1, "b", 3)])
def test_too_few_and_too_many(wrong: tuple[typing.Any, ...]) -> None:
    for make in (Ours, Theirs):
        with pytest.raises(TypeError):
            make(*wrong)
        with pytest.raises(TypeError):
            make(1, "b", third=3)  # type: ignore[call-arg]
        with pytest.raises((TypeError, ValueError)):
            make(1, "b")._replace(third=3)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            make(1, first=1)  # type: ignore[call-arg, misc]


def test_a_protocol_asks_for_nothing() -> None:
    class Reader(lean.Protocol):
        def read(self) -> int: ...

    class Real:
        def read(self) -> int:
            return 1

    found: Reader = Real()
    assert found.read() == 1
