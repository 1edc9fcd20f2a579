"""What the lab tests share: one lab for all of them, guests of their own, and a look at what is left behind."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

sys.path.insert(0, str(Path(__file__).resolve().parent))

import product
from seeds import seed
from thinlab import Lab
from thinlab.health import VolumeGroupLost

LOST = pytest.StashKey[bool]()
RERUN: list[str] = []


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
            item.add_marker(pytest.mark.timeout(1800 if item is items[0] else 900))
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What one test broke is not the next one's: a broken node is made anew, with all guests that tests share."""
    lab = Lab()
    if lab.state.exists and lab.heal():
        # pytest has no public way to give up the fixtures of a module before its end.
        item.session._setupstate.teardown_exact(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(VolumeGroupLost):
        item.stash[LOST] = True
    return report


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """A test whose cut tore the volume group runs once more, from the start; the second time it counts."""
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if item.stash.get(LOST, False):
        RERUN.append(item.nodeid)
        item.session._setupstate.teardown_exact(None)
        item.stash[LOST] = False
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name in RERUN:
        terminalreporter.write_line(f"rerun: the cut fell inside an LVM command: {name}")


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
