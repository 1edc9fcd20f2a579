"""The bytes between client and guard: one JSON object per line, bounded in size.

::

    client -> guard   {"version": 1, "window": {...WindowRequest...}}  or
                      {"version": 1, "ping": true}                     once
    guard  -> client  {"event": {"step": "frozen", "seconds": 0.151, "note": "2 file systems"}}   any number
                      {"report": {...WindowReport...}}  or
                      {"pong": {"package": "0.1.0"}}  or
                      {"error": {"code": "busy", "message": "...", "hint": "...", "retry": true}}  once, the last

End of file from the client before the last line is its wish to abort: everything is undone at once.
"""

from __future__ import annotations

import base64
import enum
import json
import math
from typing import Any, TypeVar, cast

from thinsync_virt.errors import Code, ThinsyncError
from thinsync_virt.guard.messages import (
    MAX_FILES,
    FileContent,
    Ping,
    Pong,
    Quiesce,
    Step,
    UnfitMessageError,
    WindowEvent,
    WindowReport,
    WindowRequest,
)
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import Consistency
from thinsync_virt.system.lvm_commands import SnapshotRequest
from thinsync_virt.units import MIB

VERSION = 1
MAX_REQUEST = MIB
_LARGEST = 1 << 63
MAX_REPLY = 2 * MAX_FILES

E = TypeVar("E", bound=enum.StrEnum)
T = TypeVar("T")


class Fields:
    """A JSON object whose members are taken out by name and kind. Raises UsageError for what is not there."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self._where = where

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """From a parsed JSON value that should be an object."""
        if not isinstance(value, dict):
            raise UnfitMessageError(f"the {where} is not an object")
        return cls(value, where)

    @classmethod
    def of_line(cls, line: bytes, where: str) -> Fields:
        """From a line of JSON."""
        try:
            return cls.of(json.loads(line), where)
        except (ValueError, RecursionError) as error:
            raise UnfitMessageError(f"the {where} is not JSON") from error

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self.values

    def text(self, name: str) -> str:
        """A string."""
        return self._typed(name, str)

    def flag(self, name: str) -> bool:
        """A boolean."""
        return self._typed(name, bool)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.values.get(name)
        # An int may be larger than any float, and then nobody can say whether it is finite.
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
        if not whole and not (isinstance(value, float) and math.isfinite(value)):
            raise UnfitMessageError(f"{name} in the {self._where} is not a number")
        return cast(float, value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._typed(name, list)
        if not all(isinstance(value, str) for value in values):
            raise UnfitMessageError(f"{name} in the {self._where} holds other things than strings")
        return tuple(values)

    def nested(self, name: str) -> Fields:
        """An object."""
        return Fields.of(self.values.get(name), name)

    def items(self, name: str) -> tuple[Fields, ...]:
        """A list of objects."""
        return tuple(Fields.of(value, name) for value in self._typed(name, list))

    def _typed(self, name: str, kind: type[T]) -> T:
        value = self.values.get(name)
        if not isinstance(value, kind):
            raise UnfitMessageError(f"{name} in the {self._where} is missing or of the wrong kind")
        return value


def encode_request(request: WindowRequest) -> bytes:
    """The request as one line."""
    window = {
        "domain": request.domain,
        "uuid": request.uuid,
        "quiesce": request.quiesce.value,
        "unsafe_cache": request.unsafe_cache,
        "freeze_timeout": request.freeze_timeout,
        "ping_timeout": request.ping_timeout,
        "read_files": list(request.read_files),
        "snapshots": [
            {
                "origin": str(snapshot.origin),
                "name": snapshot.name,
                "tags": list(snapshot.tags),
                "read_only": snapshot.read_only,
                "skip": snapshot.skip,
            }
            for snapshot in request.snapshots
        ],
    }
    return _line({"version": VERSION, "window": window})


def encode_ping() -> bytes:
    """The question whether anybody is there, as one line."""
    return _line({"version": VERSION, "ping": True})


def encode_pong(pong: Pong) -> bytes:
    """Its answer as one line."""
    return _line({"pong": {"package": pong.package}})


def encode_event(event: WindowEvent) -> bytes:
    """The event as one line."""
    return _line(
        {"event": {"step": event.step.value, "seconds": round(event.seconds, 4), "note": event.note}}
    )


def encode_report(report: WindowReport) -> bytes:
    """The report as one line."""
    return _line(
        {
            "report": {
                "ok": report.ok,
                "consistency": report.consistency.value,
                "late": report.late,
                "problem": report.problem,
                "reason": report.reason,
                "hint": report.hint,
                "frozen": report.frozen,
                "thawed": report.thawed,
                "still_frozen": report.still_frozen,
                "frozen_seconds": report.frozen_seconds,
                "paused_seconds": report.paused_seconds,
                "lvm_seconds": report.lvm_seconds,
                "window_seconds": report.window_seconds,
                "lvm_output": report.lvm_output,
                "unsuspended": [str(volume) for volume in report.unsuspended],
                "files": [
                    {
                        "path": file.path,
                        "content": None if file.content is None else base64.b64encode(file.content).decode(),
                    }
                    for file in report.files
                ],
            }
        }
    )


def encode_error(error: ThinsyncError) -> bytes:
    """A failure as one line."""
    body = {"code": error.code.value, "message": error.message, "hint": error.hint, "retry": error.retry}
    return _line({"error": body})


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def parse_request(line: bytes) -> WindowRequest | Ping:
    """The request in a line. Raises UsageError for whatever is not one."""
    message = Fields.of_line(line, "request")
    if message.number("version") != VERSION:
        raise UnfitMessageError(
            "client and guard speak different versions", hint="systemctl restart thinsync-guard.service"
        )
    if message.has("ping") and message.flag("ping"):
        return Ping()
    window = message.nested("window")
    return WindowRequest(
        domain=window.text("domain"),
        uuid=window.text("uuid"),
        snapshots=tuple(_snapshot(item) for item in window.items("snapshots")),
        quiesce=_member(Quiesce, window.text("quiesce")),
        unsafe_cache=window.flag("unsafe_cache"),
        freeze_timeout=window.number("freeze_timeout"),
        ping_timeout=window.number("ping_timeout"),
        read_files=window.texts("read_files"),
    )


def _snapshot(fields: Fields) -> SnapshotRequest:
    return SnapshotRequest(
        origin=VolumeName.parse(fields.text("origin")),
        name=fields.text("name"),
        tags=fields.texts("tags"),
        read_only=fields.flag("read_only"),
        skip=fields.flag("skip"),
    )


def parse_reply(line: bytes) -> WindowEvent | WindowReport | Pong | ThinsyncError:
    """What the guard says in a line. Raises UsageError for whatever is none of the four."""
    message = Fields.of_line(line, "reply")
    if message.has("pong"):
        return Pong(message.nested("pong").text("package"))
    if message.has("event"):
        event = message.nested("event")
        return WindowEvent(_member(Step, event.text("step")), event.number("seconds"), event.text("note"))
    if message.has("error"):
        error = message.nested("error")
        return ThinsyncError(
            error.text("message"),
            code=_member(Code, error.text("code")),
            hint=error.text("hint"),
            retry=error.flag("retry"),
        )
    return _report(message.nested("report"))


def _report(fields: Fields) -> WindowReport:
    return WindowReport(
        ok=fields.flag("ok"),
        consistency=_member(Consistency, fields.text("consistency")),
        late=fields.flag("late"),
        problem=fields.text("problem"),
        reason=fields.text("reason"),
        hint=fields.text("hint"),
        frozen=int(fields.number("frozen")),
        thawed=int(fields.number("thawed")),
        still_frozen=fields.flag("still_frozen"),
        frozen_seconds=fields.number("frozen_seconds"),
        paused_seconds=fields.number("paused_seconds"),
        lvm_seconds=fields.number("lvm_seconds"),
        window_seconds=fields.number("window_seconds"),
        lvm_output=fields.text("lvm_output"),
        unsuspended=tuple(VolumeName.parse(name) for name in fields.texts("unsuspended")),
        files=tuple(_file(item) for item in fields.items("files")),
    )


def _file(fields: Fields) -> FileContent:
    if fields.values.get("content") is None:
        return FileContent(fields.text("path"), None)
    try:
        return FileContent(fields.text("path"), base64.b64decode(fields.text("content"), validate=True))
    except ValueError as error:
        raise UnfitMessageError("the guard's reply holds a file that is not base64") from error


def _member(kind: type[E], text: str) -> E:
    try:
        return kind(text)
    except ValueError as error:
        raise UnfitMessageError(f"{text!r} is not a {kind.__name__.lower()}") from error
