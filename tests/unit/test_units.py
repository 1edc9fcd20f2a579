"""Numbers that people write."""

from __future__ import annotations

import pytest

from thinsync_virt.errors import UsageError
from thinsync_virt.units import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64K", 65536), ("1.5GiB", 3 << 29), (" 2 tb ", 2 << 40), ("8191P", 8191 << 50)],
)
def test_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", [pytest.param("9" * 400, id="endless"), "9" * 30 + "P", "8192P", "-1", "1e9", "", "many"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.hint
