"""What modules that every start imports need of typing, which takes longer to import than a small delta takes in all.

A type checker sees typing's own names. When the program runs, they are stand-ins that annotations and class statements
can do with; a named tuple is one as typing makes it, but for defaults and ``_asdict``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import BinaryIO as BinaryIO
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import Self as Self
else:
    from operator import itemgetter

    class Protocol:
        """A base that asks for nothing."""

    Any = BinaryIO = Self = object

    class _NamedTupleType(type):
        def __new__(cls, name, bases, members):
            if not bases:
                return super().__new__(cls, name, bases, members)
            fields = tuple(members.get("__annotations__", ()))
            getters = {field: property(itemgetter(place)) for place, field in enumerate(fields)}
            given = {
                "__slots__": (),
                "__new__": _made,
                "__repr__": _shown,
                "__getnewargs__": lambda self: tuple(self),
                "_fields": fields,
                "_replace": _replaced,
            }
            return type(name, (tuple,), {**given, **members, **getters})

    class NamedTuple(metaclass=_NamedTupleType):
        """As typing's."""

    def _made(cls, *values, **named):
        if named:
            values = (*values, *[named.pop(field) for field in cls._fields[len(values) :] if field in named])
        if named or len(values) != len(cls._fields):
            raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
        return tuple.__new__(cls, values)

    def _replaced(self, **named):
        values = [named.pop(field, value) for field, value in zip(self._fields, self, strict=True)]
        if named:
            raise ValueError(f"{type(self).__name__} has no {', '.join(named)}")
        return tuple.__new__(type(self), values)

    def _shown(self):
        shown = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
        return f"{type(self).__name__}({shown})"
