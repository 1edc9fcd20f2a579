"""Documents that keep up: the man page with the command line, links with files, commands in text with commands."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.unit.stream.samples import header
from tests.unit.test_suggested_commands import VALUE, texts
from tests.unit.values import identifier
from thinsync_virt import __version__
from thinsync_virt.cli.commands import DAILY, PLUMBING, group
from thinsync_virt.errors import Code, StreamError
from thinsync_virt.model.definition import MAX_PACKED, Definition
from thinsync_virt.stream.frames import PAYLOAD_BOUNDS, FrameType
from thinsync_virt.stream.header import encode_header, parse_header
from thinsync_virt.units import KIB

ROOT = Path(__file__).parents[2]
MAN = ROOT / "docs/man/thinsync-vm.1"
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("hooks/*.md"),
        *ROOT.glob("tests/lab/*.md"),
    ]
)


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, set[str]]]:
    """Every command with its long options, ``--help`` apart."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *path, name)
        return
    options = {name for param in command.params for name in param.opts if name.startswith("--")}
    yield " ".join(path), options
    for name, below in getattr(command, "subcommands", {}).items():
        yield from commands(below, *path, name)


CLI = dict(commands(group))


def plain(line: str) -> str:
    """One line of the man page's source without its markup."""
    line = re.sub(r'^\.[A-Z]+ "?', "", line)
    return re.sub(r"\\f[A-Z]", "", line).replace('"', "").replace("\\-", "-").strip()


def documented() -> dict[str, set[str]]:
    """The entries below COMMANDS: at the outer level commands, in an indented block their options."""
    source = MAN.read_text()
    section = source[source.index(".SH COMMANDS") : source.index(".SH EXIT STATUS")].splitlines()
    found: dict[str, set[str]] = {}
    depth, current = 0, ""
    for line, following in zip(section, [*section[1:], ""], strict=True):
        depth += {".RS": 1, ".RE": -1}.get(line[:3], 0)
        if line != ".TP":
            continue
        words = plain(following)
        if depth == 0:
            longest = sorted(CLI, key=len, reverse=True)
            current = next((name for name in longest if f"{words} ".startswith(f"{name} ")), words)
            found[current] = set(re.findall(r"--[a-z-]+", words))
        else:
            found[current] |= set(re.findall(r"--[a-z-]+", words))
    return found


def test_the_man_page_has_every_command_and_option_and_no_other() -> None:
    assert documented() == CLI


def test_the_man_page_groups_the_commands_as_the_help_does() -> None:
    source = MAN.read_text()
    section = source[source.index(".SH COMMANDS") : source.index(".SH EXIT STATUS")]
    grouped: dict[str, set[str]] = {}
    for title, body in re.findall(r"^\.SS (.+)\n((?:(?!\.SS).*\n)*)", section, re.MULTILINE):
        names = {plain(entry).split()[0] for entry in re.findall(r"^\.TP\n(.+)$", body, re.MULTILINE)}
        grouped[title] = names & {*DAILY, *PLUMBING}
    assert grouped == {"Daily commands": set(DAILY), "Plumbing": set(PLUMBING)}


def test_the_man_page_has_every_exit_status() -> None:
    source = MAN.read_text()
    section = source[source.index(".SH EXIT STATUS") : source.index(".SH ENVIRONMENT")]
    statuses = {int(number) for number in re.findall(r"^\.B (\d+)$", section, re.MULTILINE)}
    assert statuses == {0, *(code.exit_status for code in Code)}


def test_the_man_page_is_of_this_version() -> None:
    assert f"thinsync-virt {__version__}" in MAN.read_text().splitlines()[0]


def test_the_exit_codes_of_the_operations_manual() -> None:
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert {(int(number), name) for number, name in rows} == {(c.exit_status, c.value) for c in Code}


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as they are made of their text."""
    headings = re.findall(r"^#+ (.+)$", without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_is_dead(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        goal = (document.parent / name).resolve() if name else document
        assert goal.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(goal), f"{link}: there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_this_tree_exist(document: Path) -> None:
    """What stands in backquotes and looks like a path of this tree is one."""
    text = without_code(document.read_text())
    for path in re.findall(r"`((?:thinsync_virt|tests|docs|packaging|hooks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_text_are_commands(document: Path) -> None:
    for line in re.findall(r"thinsync-vm ([a-z][^`#|\n]*)", document.read_text()):
        name = next(
            (name for name in sorted(CLI, key=len, reverse=True) if f"{line} ".startswith(f"{name} ")), None
        )
        if name is None:
            # Prose: "thinsync-vm is installed". A command would have options or a domain behind it.
            assert "--" not in line, line
            continue
        assert set(re.findall(r"--[a-z-]+", line)) <= CLI[name] | {"--help"}, line


def test_the_way_to_read_a_definition_by_hand(tmp_path: Path) -> None:
    """The very lines of docs/on-disk.md, on a definition as the program writes it."""
    document = (ROOT / "docs/on-disk.md").read_text()
    found = re.search(r"<<'END'\n(.*?)\n    END", document, re.DOTALL)
    assert found is not None
    volume = tmp_path / "definition"
    definition = Definition({"choices.json": b"{}", "domain.xml": b"<domain/>", "nvram": bytes(100)})
    volume.write_bytes(definition.pack() + bytes(1000))
    script = textwrap.dedent(found[1])
    done = subprocess.run(
        [sys.executable, "-", str(volume)], input=script, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "<domain/>\n"), done.stderr


def test_tags_are_not_selected_by_pattern() -> None:
    """LVM compares lists of strings as a whole only: lv_tags=~"..." is an error."""
    for document in (*DOCUMENTS, *(ROOT / "thinsync_virt").rglob("*.py")):
        assert not re.search(r"tags *[=!]~", document.read_text()), document


def test_the_documents_that_others_point_at_are_there() -> None:
    for source in (ROOT / "thinsync_virt").rglob("*.py"):
        for path in re.findall(r"docs/[a-z-]+\.md", source.read_text()):
            assert (ROOT / path).exists(), f"{source.name} points at {path}"


def test_messages_point_at_documents_where_the_package_puts_them() -> None:
    """On a host there is no docs/: debhelper puts docs/*.md into one directory, and packs what is longer than 4 KiB."""
    assert "docs/*.md\n" in (ROOT / "packaging/debian/thinsync-virt.docs").read_text()
    pointed = []
    for source in (ROOT / "thinsync_virt").rglob("*.py"):
        for text in texts(ast.parse(source.read_text())):
            pointed += re.findall(r"/usr/share/doc/thinsync-virt/([\w.-]+)", text)
            assert not re.search(r"(?<![\w/])docs/[a-z]", text), f"{source.name}: {text}"
    assert pointed
    for name in pointed:
        assert name.endswith(".md.gz"), name
        document = ROOT / "docs" / name.removesuffix(".gz")
        assert document.stat().st_size > 4096, name


FOR_TESTS = {"/run/thinsync/stop-at", "/run/thinsync/stopped-at", "/run/thinsync/leave-out-flush"}


def test_every_place_of_ours_is_documented() -> None:
    """In the man page, and where on-disk.md says what is lost with it."""
    places = {
        path
        for source in (ROOT / "thinsync_virt").rglob("*.py")
        for text in texts(ast.parse(source.read_text()))
        for path in re.findall(r"^/(?:run|run/lock|var/lib)/thinsync[/\w.-]*$", text)
    }
    assert len(places) > 7
    on_disk, man = (ROOT / "docs/on-disk.md").read_text(), MAN.read_text().replace("\\-", "-")
    for path in places - FOR_TESTS:
        assert f"`{path}" in on_disk, path
        assert path in man, path


FOREIGN = ("Check of pool", "WARNING: Checksum error", "TPM result", "no domain with matching name")
"""LVM's, QEMU's and libvirt's own messages."""

NAMES = re.compile(r"\S*[\d/'\"%]\S*(?<!'s)|\b(?:beta|A|B|N|lvconvert)\b|\.\.\.|\([^)]*\)|[;:,](?= |$)")
"""What differs from one such message to the next, and where one ends and another begins."""

PUT_TOGETHER = {
    "No space left on device",
    "or is not responding",
    "and is not a replica of ours",
    "cannot write the list of what differs",
    "is in use since",
    "vda written to",
}
"""The kernel's words and libvirt's, and such as the program makes of parts."""


def quoted_messages() -> list[str]:
    """What the operations manual quotes: as a block, or in the first column of a table of messages."""
    found, in_table = [], False
    for line in (ROOT / "docs/operations.md").read_text().splitlines():
        if line.startswith("> "):
            found.append(line[2:])
        header = re.match(r"\| (message|warning|reason) \|", line) is not None
        in_table = line.startswith("|") and (in_table or header)
        if in_table and not header and not re.match(r"\|[- |]+\|$", line):
            found.append(line.split("|")[1].strip().replace("`", ""))
    return [message for message in found if not message.startswith(FOREIGN)]


def test_messages_that_the_manual_quotes_are_messages_of_the_program() -> None:
    """Somebody looks for what the program has said: in those words."""
    sources = (ROOT / "thinsync_virt").rglob("*.py")
    said = "\n".join(text for source in sources for text in texts(ast.parse(source.read_text())))
    said = said.replace(VALUE, "").replace("  ", " ")
    quoted = [part.strip() for message in quoted_messages() for part in NAMES.split(message)]
    longer = [part for part in quoted if len(part.split()) > 2]
    assert len(longer) > 40
    assert {part for part in longer if part not in said} == PUT_TOGETHER


def test_the_package_wants_the_python_that_the_code_wants() -> None:
    """On a release with an older one apt has to refuse it, not the program to end with a traceback."""
    (needed,) = re.findall(r'^requires-python = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    control = (ROOT / "packaging/debian/control").read_text()
    assert f"X-Python3-Version: {needed.replace('>=', '>= ')}\n" in control


def test_the_bounds_of_the_streams_header_are_those_of_the_reader() -> None:
    text = (ROOT / "docs/stream-format.md").read_text()
    assert PAYLOAD_BOUNDS[FrameType.ERROR] == (2, 64 * KIB) and "JSON, 2 bytes to 64 KiB" in text
    assert f"at most {MAX_PACKED} (" in text
    disk = {"base": None, "chunk_size": 64 * KIB, "mode": "full", "size": 2**63 - 512, "start": 0}
    package, names = "1 to 64 of `A-Za-z0-9.+~-`", "1 to 127 of `A-Za-z0-9_+.-`"
    targets = "1 to 6 letters `a-z`, then up to 10 of `a-z0-9`"
    assert package in text and names in text and targets in text and "below 2^63" in text

    def taken(changes: dict[str, object], **of_disk: object) -> bool:
        fields = json.loads(encode_header(header()))
        fields |= {"base": None, "disks": [{**disk, "target": "vda", **of_disk}], **changes}
        try:
            parse_header(json.dumps(fields).encode())
        except StreamError:
            return False
        return True

    alone: dict[str, object] = {"domain": None, "replica": None}
    assert taken({"package": "aZ09.+~-" * 8}) and not taken({"package": "a" * 65})
    assert not taken({"package": ""}) and not taken({"package": "a b"})
    assert taken({}, target="abcdef0123456789") and not taken({}, target="abcdef0123456789a")
    assert not taken({}, target="vda_1") and not taken({}, target="1vda")
    assert taken(alone, target="_+.-" + "a" * 123) and not taken(alone, target="a" * 128)
    assert not taken(alone, target="-a") and not taken(alone, target="..")
    assert taken({}, size=2**63 - 512) and not taken({}, size=2**63)
    assert taken({"definition_size": MAX_PACKED}) and not taken({"definition_size": MAX_PACKED + 1})
    assert taken({}, chunk_size=3 * 64 * KIB) and not taken({}, chunk_size=96 * KIB)
    assert not taken({"domain": None})
    increment: dict[str, object] = {"mode": "incremental", "base": identifier(1)}
    assert "`base` is that of the header where `mode` is `incremental`" in text
    assert taken({"base": identifier(1)}, **increment)
    assert not taken({"base": identifier(3)}, **increment) and not taken({}, **increment)
    assert not taken({"base": identifier(1)}, base=identifier(1))
