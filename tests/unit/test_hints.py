"""Every error that a user can meet names the way out: looked for in the source, for every raise there is."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import thinsync_virt
from thinsync_virt.errors import Code, CommandError, StreamError, ThinsyncError
from thinsync_virt.model.findings import Finding, Severity

ROOT = Path(thinsync_virt.__file__).parent
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path.name != "errors.py")

JUSTIFIED = {
    ("cli/checks.py", "problem"): "a domain's problem says its own remedy",
    ("cli/delta_command.py", "--metadata and volumes exclude each other"): "the message is the way out",
}
"""File, and a word of the call: why it needs no hint."""


def module_of(path: Path) -> ModuleType:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def is_empty(value: ast.expr | None) -> bool:
    """Nothing is given, or nothing is said in at least one of the cases."""
    if isinstance(value, ast.IfExp):
        return is_empty(value.body) or is_empty(value.orelse)
    return value is None or (isinstance(value, ast.Constant) and not value.value)


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    found = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    if found is None and position is not None and len(call.args) > position:
        return call.args[position]
    return found


def called(call: ast.Call, names: dict[str, object]) -> object:
    return names.get(call.func.id) if isinstance(call.func, ast.Name) else None


OPERATOR_DOES = re.compile(
    r"""(^|[^\w-])(
    activate|add|apt|ask|change|choose|copy|deactivate|extend|find|give|leave|let|look|make|mend|move|name|put|receive
    |remove|rename|repair|replicate|report|run|see|send|set|shut|try|unmount|unset|upgrade|use|wait|write
    |dmsetup|dmesg|journalctl|lvchange|lvs|sudo|systemctl|systemd-machine-id-setup|thinsync-vm|vgs|virsh
    )\b | (^|\s)--[a-z] | \?(\s|$) | \{\}""",
    re.VERBOSE,
)
"""A verb of an operator's, a program, an option, a question to look into; or what only the program knows."""


def texts(value: ast.expr | None, names: dict[str, object]) -> Iterator[str]:
    """What a hint may say, as far as it stands in the source; ``{}`` for what does not."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
        case ast.IfExp(body=body, orelse=otherwise):
            yield from texts(body, names)
            yield from texts(otherwise, names)
        case ast.Name(id=name) if isinstance(held := names.get(name), str):
            yield held


def is_idle(call: ast.Call, names: dict[str, object]) -> bool:
    """Whether a call has a hint that names nothing that an operator could do."""
    kind = called(call, names)
    if not (isinstance(kind, type) and issubclass(kind, ThinsyncError | Finding)):
        return False
    hint = argument(call, "hint", 3 if kind is Finding else None)
    return any(text and not OPERATOR_DOES.search(text) for text in texts(hint, names))


def lacks_hint(call: ast.Call, names: dict[str, object]) -> bool:
    """Whether a call makes an error, or a finding that stops a replication, with no way out."""
    if is_idle(call, names):
        return True
    kind = called(call, names)
    if kind is Finding:
        severity = argument(call, "severity", 0)
        stops = severity is not None and ast.unparse(severity) == f"Severity.{Severity.REFUSAL.name}"
        return stops and is_empty(argument(call, "hint", 3))
    if not (isinstance(kind, type) and issubclass(kind, ThinsyncError)):
        return False
    return not kind.default_hint and not issubclass(kind, CommandError) and is_empty(argument(call, "hint"))


def without_hint(path: Path, source: str, names: dict[str, object]) -> Iterator[str]:
    file = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and lacks_hint(node, names):
            text = ast.unparse(node)
            if not any(file == where and word in text for where, word in JUSTIFIED):
                yield f"{file}:{node.lineno}: {text}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_error_has_a_way_out(path: Path) -> None:
    if path.name == "__main__.py":
        return
    assert list(without_hint(path, path.read_text(), vars(module_of(path)))) == []


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        ("raise PoolError('gone')", True),
        ("raise PoolError('gone', hint='')", True),
        ("raise PoolError('gone', hint='look' if x else '')", True),
        ("raise PoolError('gone', hint='look')", False),
        ("raise PoolError('gone', hint='plan again')", True),
        ("raise PoolError('gone', hint='look' if x else 'it begins with other bytes')", True),
        ("raise PoolError('gone', hint=IDLE)", True),
        ("raise PoolError('gone', hint='is it active?')", False),
        ("raise PoolError('gone', hint=f'there: {x}')", False),
        ("raise StreamError('cut off', hint='it begins with other bytes')", True),
        ("Finding(Severity.WARNING, 'beta', 'nearly full', 'the next replication makes a good one')", True),
        ("error = UsageError(f'{x} is wrong')", True),
        ("raise StreamError('cut off')", False),
        ("raise CommandError(('lvs',), 5, '')", False),
        ("raise ValueError('ours')", False),
        ("Finding(Severity.REFUSAL, 'beta', 'no room')", True),
        ("Finding(Severity.REFUSAL, 'beta', 'no room', '')", True),
        ("Finding(Severity.REFUSAL, 'beta', 'no room', 'make some')", False),
        ("Finding(Severity.WARNING, 'beta', 'nearly full')", False),
    ],
)
def test_the_search_finds(line: str, lacking: bool) -> None:
    names = {
        **vars(importlib.import_module("thinsync_virt.errors")),
        "Finding": Finding,
        "IDLE": "plan again",
    }
    assert bool(list(without_hint(ROOT / "model/names.py", line, names))) is lacking


def test_the_search_looks_at_the_whole_program() -> None:
    calls = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.endswith("Error")
        and argument(node, "hint") is not None
    ]
    assert len(calls) > 100


def test_what_holds_where_nothing_better_is_known() -> None:
    assert StreamError("cut off").hint == StreamError.default_hint != ""
    assert StreamError("cut off", hint="look").hint == "look"
    assert CommandError(("lvs", "vg 0"), 5, "").hint == "try it by hand: lvs 'vg 0'"
    assert ThinsyncError("what", code=Code.POOL).hint == ""
