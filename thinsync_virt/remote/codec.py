"""Frozen dataclasses to JSON values and back, with cattrs, strictly.

What comes back is data from the other side: no type is turned into another (a string is no number, a bool is no
integer), no key is unknown, and none is missing unless its field has a default. Enums travel as their values,
tuples as arrays, dataclasses as objects.

    params = to_wire(Prepare(point="..."))
    prepare = from_wire(Prepare, params, "prepare")          # StreamError: prepare.point: not a string
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import types
from collections.abc import Callable
from typing import Any, TypeVar, Union, get_args, get_origin

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from thinsync_virt.errors import StreamError
from thinsync_virt.model.text import printable

T = TypeVar("T")

_NAMES = {str: "a string", int: "an integer", bool: "true or false", list: "an array", dict: "an object"}
_INTEGERS = 1 << 63
"""As many as the kernel counts with. JSON has no bound, and whoever shows or divides a number meets a float's."""
_PLACE = re.compile(r"@ attribute (\w+)$")


def to_wire(value: Any) -> Any:
    """The JSON value of a dataclass (or of anything that can stand in one)."""
    return _CONVERTER.unstructure(value)


def from_wire(kind: type[T], value: object, what: str) -> T:
    """The value of type ``kind``. Raises StreamError that names the field; ``what`` is the name of the whole."""
    try:
        return _CONVERTER.structure(value, kind)
    except Exception as error:
        raise StreamError(printable(f"{what}{_complaint(error)}", 500), retry=False) from error


class _ElementError(ValueError):
    """What is wrong with one element, and which it is."""

    def __init__(self, place: str, cause: Exception) -> None:
        super().__init__(place)
        self.place = place
        self.cause = cause


def _require(kind: type[T], value: object) -> T:
    # Not isinstance: True is an int.
    if type(value) is not kind:
        raise ValueError(f"not {_NAMES[kind]}")
    return value


def _exact(kind: type) -> Callable[[Any, Any], Any]:
    return lambda value, _: _require(kind, value)


def _structure_integer(value: Any, _: Any) -> int:
    number = _require(int, value)
    if not -_INTEGERS <= number < _INTEGERS:
        raise ValueError("an integer of more than 64 bits")
    return number


def _structure_text(value: Any, _: Any) -> str:
    text = _require(str, value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("not valid text") from error
    return text


def _structure_float(value: Any, _: Any) -> float:
    if type(value) not in (float, int) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def _structure_enum(value: Any, kind: Any) -> Any:
    for member in kind:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise ValueError(f"{value!r:.60} is none of {', '.join(str(member.value) for member in kind)}")


def _unless_enum(hook: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """cattrs goes by the class's bases: it takes the hook of str for every StrEnum too."""
    return lambda value, kind: _structure_enum(value, kind) if _is_enum(kind) else hook(value, kind)


def _structure_tuple(value: Any, kind: Any) -> tuple[Any, ...]:
    elements = _require(list, value)
    kinds = get_args(kind)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(elements)
    if len(kinds) != len(elements):
        raise ValueError(f"{len(elements)} elements where {len(kinds)} belong")
    return tuple(_element(f"[{i}]", *pair) for i, pair in enumerate(zip(elements, kinds, strict=True)))


def _structure_dict(value: Any, kind: Any) -> dict[Any, Any]:
    keys, values = get_args(kind)
    return {
        _element(f"[{key!r:.60}]", key, keys): _element(f"[{key!r:.60}]", element, values)
        for key, element in _require(dict, value).items()
    }


def _element(place: str, value: object, kind: Any) -> Any:
    try:
        return _CONVERTER.structure(value, kind)
    except Exception as error:
        raise _ElementError(place, error) from error


def _dataclass_hook(kind: Any) -> Callable[[Any, Any], Any]:
    structure = make_dict_structure_fn(kind, _CONVERTER, _cattrs_forbid_extra_keys=True)
    return lambda value, wanted: structure(_require(dict, value), wanted)


def _structure_one_of(value: Any, kind: Any) -> Any:
    """A value that may be of several dataclasses: the one whose fields it has."""
    keys = set(_require(dict, value))
    for member in get_args(kind):
        fields = dataclasses.fields(member)
        needed = {
            field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING
        }
        if needed <= keys <= {field.name for field in fields}:
            return _CONVERTER.structure(value, member)
    raise ValueError(f"its keys belong to none of {', '.join(one.__name__ for one in get_args(kind))}")


def _complaint(error: BaseException) -> str:
    """``.disks[1].size: not an integer`` for the first thing that is wrong."""
    match error:
        case _ElementError():
            return error.place + _complaint(error.cause)
        case BaseExceptionGroup():
            first = error.exceptions[0]
            places = (_PLACE.search(str(note)) for note in getattr(first, "__notes__", ()))
            return "".join(f".{place[1]}" for place in places if place) + _complaint(first)
        case ForbiddenExtraKeysError():
            return f": unknown key {', '.join(repr(name) for name in sorted(error.extra_fields))}"
        case KeyError():
            return ": missing"
        case _:
            return f": {error}"


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _is_one_of(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and all(_is_dataclass(one) for one in get_args(kind))


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _is_tuple(kind: Any) -> bool:
    return kind is tuple or _origin(kind) is tuple


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    simple: dict[type, Callable[[Any, Any], Any]] = {
        int: _structure_integer,
        bool: _exact(bool),
        str: _structure_text,
        float: _structure_float,
    }
    for kind, hook in simple.items():
        converter.register_structure_hook(kind, _unless_enum(hook))
    converter.register_structure_hook(enum.Enum, _structure_enum)
    converter.register_structure_hook_func(_is_tuple, _structure_tuple)
    converter.register_structure_hook_func(lambda kind: _origin(kind) is dict, _structure_dict)
    converter.register_structure_hook_func(_is_one_of, _structure_one_of)
    converter.register_structure_hook_factory(_is_dataclass, _dataclass_hook)
    for kind in (str, int, enum.Enum):
        converter.register_unstructure_hook(
            kind, lambda value: value.value if isinstance(value, enum.Enum) else value
        )
    converter.register_unstructure_hook_func(
        _is_tuple, lambda elements: [converter.unstructure(element) for element in elements]
    )
    return converter


_CONVERTER = _make_converter()
