"""Power cuts of the lab's tests lose what was not flushed."""

from __future__ import annotations

import ast
from pathlib import Path

import product

LAB = Path(product.__file__).parent
ABOUT_THE_LAB = {"test_power.py", "test_flushes.py", "test_health.py"}
"""They try the lab itself, and choose what a cut loses."""


def cuts(path: Path) -> list[tuple[int, str]]:
    """Line, and whose ``cut`` is called there."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return [
        (call.lineno, ast.unparse(call.func.value))
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "cut"
    ]


def test_every_cut_is_one_of_the_hosts() -> None:
    """``Lab.cut`` and ``Node.cut`` keep what their kernel had written: nothing is found by them."""
    found = {path.name: cuts(path) for path in sorted(LAB.glob("test_*.py"))}
    assert found.keys() >= ABOUT_THE_LAB
    others = {name: calls for name, calls in found.items() if calls and name not in ABOUT_THE_LAB}
    assert others.keys() >= {"test_crashes.py", "test_tpm.py", "test_repair_and_seed.py"}
    for name, calls in others.items():
        for line, whose in calls:
            assert whose == "hosts", f"{name}:{line}: {whose}.cut; hosts.cut loses what was not flushed"
