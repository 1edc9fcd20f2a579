"""What the lab tests share: one lab for all of them, guests of their own, and a look at what is left behind."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import product
from seeds import seed
from thinlab import Lab


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--matrix",
        choices=("sample", "whole"),
        default="sample",
        help="the crash matrix: a random sample (THINSYNC_SEED repeats it), or all of it",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything here needs the lab; of what is marked ``matrix`` only a sample runs, unless all was asked for."""
    for item in items:
        item.add_marker(pytest.mark.lab)
        if item.get_closest_marker("timeout") is None:
            # The first test's includes building and booting the lab.
            item.add_marker(pytest.mark.timeout(1800 if item is items[0] else 600))
    if config.getoption("--matrix") == "whole":
        return
    chosen: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        marker = item.get_closest_marker("matrix")
        if marker is None:
            chosen.append(item)
        else:
            groups.setdefault(marker.kwargs.get("group", item.nodeid.partition("[")[0]), []).append(item)
    for name, members in sorted(groups.items()):
        marker = members[0].get_closest_marker("matrix")
        assert marker is not None
        count = int(marker.kwargs.get("sample", 1))
        picked = random.Random(f"{seed()}:{name}").sample(members, min(count, len(members)))
        chosen += picked
        dropped += [member for member in members if member not in picked]
    order = {item: position for position, item in enumerate(items)}
    items[:] = sorted(chosen, key=lambda item: order[item])
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def pytest_report_header() -> str:
    return f"crash matrix seed: {seed()} (repeat with SEED={seed()})"


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Both nodes up, with the product as its .deb. It stays up afterwards, for whoever wants to look."""
    found = Lab()
    found.up()
    return found


@pytest.fixture
def hosts(lab: Lab) -> Iterator[product.Hosts]:
    """Both hosts as a user meets them; guests made through it vanish after the test, with all that is theirs."""
    found = product.Hosts(lab)
    found.restore()
    yield found
    found.restore()
    found.remove_guests()
