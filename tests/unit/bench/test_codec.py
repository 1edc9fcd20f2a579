"""What the codec's measurement says: of the frames that a transfer makes, and of no others."""

from __future__ import annotations

import pytest

from tests.bench import codec
from tests.bench.codec import FRAMES, GOAL, LIMIT, Took, Way, name_of
from thinsync_virt.endpoint.source.pipeline import FRAME
from thinsync_virt.units import MIB

OTHER = next(frame for frame in FRAMES if frame != FRAME)


def verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, seconds: dict[str, float]
) -> tuple[int, list[Way]]:
    """The status of a measurement whose ways take so long, 1 s where nothing is said; what was measured."""
    measured = []

    def measure(way: Way) -> Took:
        measured.append(way)
        return Took(seconds.get(way[0], 1.0), 1.0)

    monkeypatch.setattr(codec, "PLACE", str(tmp_path))
    monkeypatch.setattr(codec, "measure", measure)
    return codec.main(["--size", str(MIB), "--rounds", "2"]), measured


@pytest.mark.parametrize(
    ("ours", "other", "status"), [(1.0, 9.0, 0), (1 / GOAL + 0.01, 0.1, 1), (1 / GOAL - 0.01, 9.0, 0)]
)
def test_the_status_is_that_of_a_transfers_frames(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: object,
    ours: float,
    other: float,
    status: int,
) -> None:
    found, measured = verdict(monkeypatch, tmp_path, {name_of(FRAME): ours, name_of(OTHER): other})
    assert found == status
    assert [way[0] for way in measured].count(LIMIT) == 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert name_of(FRAME) in last
    assert ("MISSED" in last) is bool(status)
