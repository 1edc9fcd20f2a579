"""What is drawn follows the seed, in CI as elsewhere: other cases with another seed, the same with the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hypothesis_profile import CASES

ROOT = Path(__file__).parents[2]
DRAWING = """
from hypothesis import given, settings, strategies as st
from tests import hypothesis_profile

hypothesis_profile.use()

@given(st.integers(0, 2**64))
def test_draws(number):
    with open("drawn", "a") as file:
        print(number, file=file)

def test_profile():
    assert settings.default.deadline is None
    assert not settings.default.derandomize
"""


def drawn(directory: Path, *, ci: bool, seed: str | None = None, option: str | None = None) -> list[str]:
    """The numbers that a test drew, in a process of its own."""
    (directory / "test_drawing.py").write_text(DRAWING)
    (directory / "drawn").unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "THINSYNC_SEED")}
    environment |= {"PYTHONPATH": str(ROOT), **({"CI": "true"} if ci else {})}
    if seed is not None:
        environment["THINSYNC_SEED"] = seed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_drawing.py"]
        + ([f"--hypothesis-seed={option}"] if option is not None else []),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (directory / "drawn").read_text().split()


@pytest.mark.parametrize("ci", [True, False], ids=["CI", "by hand"])
def test_the_seed_decides(tmp_path: Path, ci: bool) -> None:
    first = drawn(tmp_path, ci=ci, seed="1")
    assert drawn(tmp_path, ci=ci, seed="1") == first
    assert drawn(tmp_path, ci=ci, seed="2") != first
    assert drawn(tmp_path, ci=ci) != first
    assert len(set(first)) > CASES // 2 and len(first) <= CASES


def test_pytests_option_goes_before_it(tmp_path: Path) -> None:
    assert drawn(tmp_path, ci=True, seed="2", option="1") == drawn(tmp_path, ci=True, seed="1")
