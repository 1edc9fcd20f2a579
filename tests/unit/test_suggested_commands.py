"""Every command of ours that a message or a help text gives to somebody to type is one that the program takes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import thinsync_virt
from thinsync_virt.cli.commands import group

ROOT = Path(thinsync_virt.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

VALUE = "vg0/web01"
"""What only the program knows: it will do for a domain, a volume, a pool, a target and a file."""

UNFIT = "web 01"
"""The same for a domain's name that is not quoted: it may hold anything, as libvirt lets it."""

COMMAND = re.compile(
    r"(?:^|[:;?|(.] ?|\bsee |\bsudo |\bssh \S+ )thinsync-vm ((?:[^;|<>(),:.\n]|[.:,](?! |$))+)", re.M
)
"""Where a command stands to be typed: at the beginning, behind a colon and its like; and up to where it ends."""

PROSE = {"is"}
"""What may stand behind the program's name where no command begins."""


def rendered(node: ast.expr) -> str | None:
    """The text that an expression makes, with ``VALUE`` for what only the program knows; None where it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(rendered(part) or "" for part in parts)
        case ast.FormattedValue(value=value):
            return rendered(value) or (
                UNFIT if re.search(r"domain(\.name|_name)?$", ast.unparse(value)) else VALUE
            )
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, other = rendered(left), rendered(right)
            return (one or VALUE) + (other or VALUE) if one or other else None
        case ast.Call(func=ast.Attribute(attr="join"), args=[ast.List(elts=words)]):
            given = [word for word in words if not isinstance(word, ast.Starred)]
            return " ".join(rendered(word) or VALUE for word in given)
    return None


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text in the source that is not a docstring, as a whole."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        text = rendered(child) if isinstance(child, ast.expr) else None
        if text is not None:
            yield text
        else:
            yield from texts(child)


def commands_in(text: str) -> list[str]:
    """The arguments of each command of ours in it, as they would be typed."""
    found = [match[1].strip() for match in COMMAND.finditer(text)]
    return [words for words in found if words.split()[0] not in {*PROSE, "...", VALUE}]


def suggested() -> Iterator[tuple[str, str]]:
    """Where, and what is to be typed behind the program's name."""
    for path in SOURCES:
        for text in texts(ast.parse(path.read_text())):
            for words in commands_in(text):
                yield str(path.relative_to(ROOT)), words


def examples(command: click.Command, *path: str) -> Iterator[tuple[str, str]]:
    """The same of the help text of a command, and of those below it."""
    for line in (command.help or "").splitlines():
        for words in commands_in(line.strip()):
            yield " ".join(("help of", *path)), words
    below = getattr(command, "subcommands", {})
    if isinstance(command, click.Group):
        context = click.Context(command)
        below = {name: command.get_command(context, name) for name in command.list_commands(context)}
    for name, one in below.items():
        assert one is not None
        yield from examples(one, *path, name)


def complaint(words: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command line is refused for; "" where it is taken. Nothing is run."""
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)
    try:
        group.main(args=shlex.split(words), prog_name="thinsync-vm", standalone_mode=False)
    except click.ClickException as error:
        return error.format_message()
    except click.exceptions.Exit as ended:  # --help
        return "" if ended.exit_code == 0 else "it fails"
    return ""


@pytest.mark.parametrize(("where", "words"), sorted({*suggested(), *examples(group)}))
def test_a_command_that_is_suggested_is_taken(
    where: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complaint(words, monkeypatch) == "", f"{where}: thinsync-vm {words}"


def test_the_search_finds_commands() -> None:
    assert len({words for _, words in suggested()}) > 30
    assert len(list(examples(group))) > 30
    lines = 'say(f"{x}: run thinsync-vm, or: thinsync-vm points {x} --to {y}, there; thinsync-vm recover")'
    (text,) = texts(ast.parse(lines))
    assert commands_in(text) == [f"points {VALUE} --to {VALUE}", "recover"]
    (text,) = texts(ast.parse("hint = shlex.join(['thinsync-vm', 'verify', domain, *more])"))
    assert commands_in(text) == [f"verify {VALUE}"]


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("points", False),
        ("points DOMAIN", True),
        ("points DOMAIN --form", False),
        ("replicate DOMAIN", False),
        ("replicate DOMAIN --to HOST", True),
        ("pool release", False),
        ("pool release vg0/pool --yes", True),
        ("stream cat archive:/mnt/usb", False),
        ("stream verify -", True),
        ("verfy DOMAIN", False),
        ("send --help", True),
    ],
)
def test_what_is_taken(words: str, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (complaint(words, monkeypatch) == "") is taken
