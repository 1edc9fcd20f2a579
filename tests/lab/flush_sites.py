"""Every flush of the product, found in its source: who asks for it, and by which lines of source it is reached.

A name says the place outside of the helpers (``system/``, ``hypervisor/files.py``), and the helpers on the way::

    journal.TransferJournal.write/write_durably/sync_directory

``#2`` follows when the same place asks for the same a second time.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import thinsync_virt

ROOT = Path(thinsync_virt.__file__).parent
ENDS = ("flush", "left_out")
"""The ways out, of ``thinsync_virt/flushes.py``."""
OUTERMOST = ("write", "open_output")
"""Helpers whose callers do not ask for a flush, or are not seen from it: they are places of their own."""
_OTHER_NAMES = {
    ("flush", "GroupFlush.__call__"): "flush_group",
    ("flush", "GroupFlush._flush"): "flush_disks",
    ("flush", "_flush"): "flush_disks",
    ("lvm", "_flush"): "flush_group",
}
"""Module, and what it defines or calls: an object that is called like a function."""


@dataclass(frozen=True)
class Site:
    """One flush. ``lines``: what the product calls it, more than one where several devices have the same method."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    line: int
    callee: str


@dataclass(frozen=True)
class Function:
    module: str
    qualified: str
    helper: bool
    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        return _OTHER_NAMES.get((self.module, self.qualified)) or self.qualified.rpartition(".")[2]


def sites() -> dict[str, Site]:
    """All of them, by name."""
    functions = [function for path in sorted(ROOT.rglob("*.py")) for function in functions_of(path)]
    helpers: dict[str, list[Function]] = {}
    before = -1
    while len(helpers) != before:
        before = len(helpers)
        for function in functions:
            new = function.helper and function.name not in OUTERMOST and function not in _all(helpers)
            if new and any(call.callee in ENDS or call.callee in helpers for call in function.calls):
                helpers.setdefault(function.name, []).append(function)
    found: dict[str, Site] = {}
    for function in functions:
        if function.helper and function.name not in OUTERMOST:
            continue
        seen: Counter[str] = Counter()
        for call in function.calls:
            ways: dict[str, list[str]] = {}
            for names, lines in _ways(call, helpers, function.module):
                ways.setdefault("/".join((f"{function.module}.{function.qualified}", *names)), []).append(
                    lines
                )
            for name, lines_of in ways.items():
                seen[name] += 1
                numbered = name if seen[name] == 1 else f"{name}#{seen[name]}"
                # Modules of one name in two rooms: their functions have other names.
                assert numbered not in found, numbered
                found[numbered] = Site(numbered, tuple(lines_of))
    return found


def _all(helpers: dict[str, list[Function]]) -> list[Function]:
    return [function for functions in helpers.values() for function in functions]


def _ways(
    call: Call, helpers: dict[str, list[Function]], module: str, inside: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """How a call leads to flushes: helpers' names, and lines."""
    here = f"{module}:{call.line}"
    if call.callee in ENDS:
        yield (), here
    for helper in helpers.get(call.callee, ()) if call.callee not in inside or call.callee == "sync" else ():
        for inner in helper.calls:
            if helper.module == module and inner == call:
                continue  # it calls itself
            for names, lines in _ways(inner, helpers, helper.module, (*inside, call.callee)):
                yield (call.callee, *(name for name in names if name != call.callee)), f"{here}/{lines}"


def functions_of(path: Path) -> Iterator[Function]:
    """The functions and methods of a module, with what each calls by a name that it may flush by."""
    relative = path.relative_to(ROOT)
    helper = relative.parts[0] == "system" or relative.as_posix() == "hypervisor/files.py"
    if relative.as_posix() != "flushes.py":
        tree = ast.parse(path.read_text())
        yield from _functions(tree, path.stem, "", helper)


def _functions(node: ast.AST, module: str, outer: str, helper: bool) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            qualified = f"{outer}.{child.name}" if outer else child.name
            if not isinstance(child, ast.ClassDef):
                # LVM's methods are places of their own: what each of them commits is another thing.
                inner = helper and (module != "lvm" or child.name == "_change")
                calls = (
                    Call(call.line, _OTHER_NAMES.get((module, call.callee), call.callee))
                    for call in _calls(child)
                )
                yield Function(module, qualified, inner, tuple(calls))
            yield from _functions(child, module, qualified, helper)


def _calls(function: ast.AST) -> Iterator[Call]:
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.Call):
            match child.func:
                case ast.Name(name):
                    yield Call(child.lineno, name)
                case ast.Attribute(attr="sync" | "_flush" as name):
                    yield Call(child.lineno, name)
                case ast.Attribute(ast.Name("flushes"), attr=name):
                    yield Call(child.lineno, name)
        yield from _calls(child)


if __name__ == "__main__":
    for site in sites().values():
        print(site.name, *site.lines)
