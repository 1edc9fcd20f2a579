"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def to_option(*, required: bool) -> Callable[[F], F]:
    """``--to [USER@]HOST[:PORT]``."""
    return click.option(
        "--to",
        "to",
        metavar="HOST",
        required=required,
        help="The other host: [USER@]HOST[:PORT], reached over ssh.",
    )


EXIT_STATUS = (
    "\b\nExit status: 0 done, 2 wrong usage, 3 not found, 4 conflict (nothing changed), 5 busy,\n"
    "6 unreachable, 7 a tool failed, 8 pool unhealthy, 9 no room, 10 transfer broken, 11 guest,\n"
    "12 differs, 13 cannot be replicated, 1 anything else. See thinsync-vm(1)."
)
