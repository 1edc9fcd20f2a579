"""The command ``thinsync-vm``.

A request to ``delta`` that leaves nothing to ask is answered before click is imported, which takes longer than the
answer; all else, and every mistake, is click's.
"""

from __future__ import annotations

import gc
import os
import sys

from thinsync_virt.cli import failures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from thinsync_virt.cli.delta_request import Request


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit. No expected failure shows a traceback; THINSYNC_DEBUG=1 shows them all.

    Without ``argv``, as the program itself: Python need not be taken apart for it when a plain request was answered.
    """
    words = sys.argv[1:] if argv is None else argv
    request = _plain_request(words)
    as_json = "--json" in words
    if request is None:
        failures.exit_after(lambda: _run(words), as_json=as_json)
    failures.exit_after(lambda: _answer(request, alone=argv is None), as_json=as_json, at_once=argv is None)


def _plain_request(words: list[str]) -> Request | None:
    # click answers the shell's questions for completion under this name.
    if words[:1] != ["delta"] or "_THINSYNC_VM_COMPLETE" in os.environ:
        return None
    from thinsync_virt.cli.delta_request import parse_plain

    return parse_plain(words[1:])


def _answer(request: Request, *, alone: bool) -> int:
    if alone:
        # Nothing here makes cycles; looking for them while modules are imported takes a millisecond of fifteen.
        gc.disable()
        from thinsync_virt.cli import lean_array, lean_numpy

        lean_array.load()
        lean_numpy.leave_out()
    from thinsync_virt.cli import delta_answer

    delta_answer.answer(request)
    return 0


def _run(words: list[str]) -> int:
    from thinsync_virt.cli.standard_files import make_usable

    make_usable()
    from thinsync_virt.cli.commands import invoke

    return invoke(words)


if __name__ == "__main__":
    main()
