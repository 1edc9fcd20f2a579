"""The command line of the lab."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from thinlab import cache, product, rootfs
from thinlab.errors import LabError
from thinlab.guestxml import AGENTS, Guest
from thinlab.lab import Lab, chosen_releases
from thinlab.process import CommandError
from thinlab.records import Records
from thinlab.state import NODES, Settings


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="lab", description="Two hypervisors with real dm-thin, LVM, libvirt and QEMU on this machine."
    )
    top.add_argument(
        "--dir", type=Path, help="the lab's directory (THINSYNC_LAB_DIR, or .lab in the checkout)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, node: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if node:
            sub.add_argument("node", choices=NODES)
        return sub

    up = command("up", "build what is missing and boot both nodes")
    up.add_argument(
        "--release",
        action="append",
        default=[],
        metavar="[NODE=]12|13",
        help="Debian release (default: alpha=12, beta=13)",
    )
    up.add_argument("--memory", default=Settings.memory, help="memory of a node")
    up.add_argument("--disk", default=Settings.disk, help="size of the disk behind vg0")
    up.add_argument("--pool-size", default=Settings.pool, help="size of vg0/pool")
    up.add_argument("--chunk", default=Settings.chunk, help="chunk size of vg0/pool")
    up.add_argument("--no-product", action="store_true", help="do not build and install the product")
    up.add_argument("--fresh", action="store_true", help="wipe this lab first")

    run = command("run", "run a command as root on a node; one word is a line of shell", node=True)
    run.add_argument("--timeout", type=float, default=3600)
    run.add_argument("--user", default="root", choices=("root", "op"))
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    command("shell", "a shell on a node", node=True)
    command("console", "print the node's console", node=True)

    guest = command("guest", "define and start a live guest", node=True)
    guest.add_argument("name")
    guest.add_argument("--disks", type=int, default=1)
    guest.add_argument("--size", default=Guest.size)
    guest.add_argument("--fs", default="ext4", help="ext4, xfs or raw; or one per disk, with commas")
    guest.add_argument("--no-agent", action="store_const", const="no", dest="agent")
    guest.add_argument("--agent", choices=AGENTS, default="yes", help="silent: connected, never answers")
    guest.set_defaults(agent="yes")
    guest.add_argument("--uefi", action="store_true")
    guest.add_argument(
        "--tpm", action="store_true", help="emulated; `tpm write TEXT` and `tpm read` in the guest"
    )
    guest.add_argument("--machine", default=Guest.machine)
    guest.add_argument(
        "--cache", default=Guest.cache, choices=("none", "writeback", "writethrough", "directsync", "unsafe")
    )
    guest.add_argument("--memory", type=int, default=Guest.memory, metavar="MIB")
    guest.add_argument("--pool", default=Guest.pool, metavar="VG/POOL")
    guest.add_argument("--net", action="store_true", help="with an interface on the network default")
    guest.add_argument("--pace", type=int, default=Guest.pace, help="records per second")
    guest.add_argument("--no-start", action="store_true")
    guest.add_argument("--no-wait", action="store_true", help="do not wait for its writer and agent")
    for name, text in (
        ("guest-wait", "wait until the guest's writer and agent are there"),
        ("guest-remove", "destroy and delete a guest"),
    ):
        command(name, text, node=True).add_argument("name")
    guest_run = command("guest-run", "run a line of shell in a guest, agent or not", node=True)
    guest_run.add_argument("name")
    guest_run.add_argument("--timeout", type=int, default=30)
    guest_run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")

    records = command("records", "read the writer's records from volumes or points", node=True)
    records.add_argument("volumes", nargs="+", metavar="VG/LV")
    records.add_argument("--json", action="store_true")
    cut = command("cut", "power cut", node=True)
    cut.add_argument("--volatile", action="store_true", help="lose a random part of what was not flushed")
    cut.add_argument("--seed", type=int, help="of what is lost (default: one made now, printed)")
    command("boot", "boot on the same disks", node=True)
    net = command(
        "net", "off | on | delay MS | loss PERCENT | rate MBIT, between this node and the other", node=True
    )
    net.add_argument("action", choices=("off", "on", "delay", "loss", "rate"))
    net.add_argument("value", nargs="?", default="")
    disk = command(
        "disk", "a node's disks have so many MB a second, 0: as fast as it goes; until it is off", node=True
    )
    disk.add_argument("rate", type=int, metavar="MB")
    install = command("install", "build the product's .deb and install it on both nodes")
    install.add_argument("deb", nargs="?", type=Path)
    command("sync", "put the checkout's thinsync_virt in place of the installed one")
    command("status", "what runs").add_argument("--json", action="store_true")
    command("pack", "write the cached root file systems into archives that another machine can unpack")
    command("prune", "delete what nobody uses from the cache")
    command("down", "stop everything; disks stay").add_argument(
        "--wipe", action="store_true", help="delete disks and identity too"
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an expected failure is two lines on standard error, not a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return act(arguments, Lab(arguments.dir))
    except LabError as error:
        print(f"lab: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"lab: hint: {error.hint}", file=sys.stderr)
        return (
            error.result.returncode
            if isinstance(error, CommandError) and arguments.command == "guest-run"
            else 1
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def act(arguments: argparse.Namespace, lab: Lab) -> int:
    nodes = list(lab.nodes.values())
    match arguments.command:
        case "up":
            if arguments.fresh:
                lab.down(wipe=True)
            settings = Settings(
                releases=chosen_releases(arguments.release),
                memory=arguments.memory,
                disk=arguments.disk,
                pool=arguments.pool_size,
                chunk=arguments.chunk,
            )
            lab.up(settings, with_product=not arguments.no_product)
        case "run":
            words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
            if not words:
                raise LabError("run: no command", "lab run NODE COMMAND...; `lab shell NODE` is interactive")
            connection = lab.node(arguments.node).as_user(arguments.user)
            return connection.call(words[0] if len(words) == 1 else words, timeout=arguments.timeout)
        case "shell":
            return lab.node(arguments.node).connection.call("", timeout=None)
        case "console":
            sys.stdout.write(lab.node(arguments.node).console.read_text(errors="replace"))
        case "guest":
            guest = Guest(
                name=arguments.name,
                disks=arguments.disks,
                size=arguments.size,
                fs=tuple(arguments.fs.split(",")),
                agent=arguments.agent,
                uefi=arguments.uefi,
                tpm=arguments.tpm,
                machine=arguments.machine,
                cache=arguments.cache,
                memory=arguments.memory,
                pool=arguments.pool,
                net=arguments.net,
                pace=arguments.pace,
            )
            boot = lab.guests.create(
                arguments.node, guest, start=not arguments.no_start, wait=not arguments.no_wait
            )
            if boot:
                print(
                    f"{guest.name} runs on {arguments.node}: "
                    + ", ".join(volume for _, volume, _ in guest.volumes())
                )
        case "guest-wait":
            lab.guests.wait_boot(arguments.node, arguments.name)
            lab.guests.wait_agent(arguments.node, arguments.name)
        case "guest-remove":
            lab.guests.remove(arguments.node, arguments.name)
        case "guest-run":
            words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
            result = lab.guests.run(
                arguments.node, arguments.name, " ".join(words), timeout=arguments.timeout, check=False
            )
            sys.stdout.write(result.stdout)
            sys.stderr.write(result.stderr)
            return result.returncode
        case "records":
            return _print_records(
                lab.guests.records(arguments.node, *arguments.volumes), as_json=arguments.json
            )
        case "cut":
            lab.cut(arguments.node, volatile=arguments.volatile, seed=arguments.seed)
        case "boot":
            lab.boot(arguments.node)
        case "net":
            lab.node(arguments.node).net(arguments.action, arguments.value)
        case "disk":
            lab.node(arguments.node).disk_rate(arguments.rate * 1_000_000)
        case "install":
            product.install(nodes, arguments.deb)
        case "sync":
            product.sync(nodes)
        case "status":
            _print_status(lab.status(), as_json=arguments.json)
        case "pack":
            for path in rootfs.pack():
                print(path)
        case "prune":
            for path in cache.prune():
                print(path)
        case "down":
            lab.down(wipe=arguments.wipe)
    return 0


def _print_records(found: list[Records], *, as_json: bool) -> int:
    """Status 0 when every volume is whole."""
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=2))
    for row in [] if as_json else found:
        print(
            f"{row.volume}: {row.error or f'{row.count} records, {row.first} to {row.last}'}"
            f", {len(row.missing)} missing, {len(row.torn)} torn, {len(row.boots)} boots ({row.kind})"
        )
    return 0 if all(row.whole for row in found) else 1


def _print_status(rows: dict[str, dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        print(
            f"{name}: "
            + os.linesep.join(
                ["power " + row.pop("power"), *(f"  {key}: {value}" for key, value in row.items())]
            )
        )
