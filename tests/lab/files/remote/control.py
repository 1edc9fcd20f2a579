"""control.py DOMAIN SECONDS COMMAND: run a line of shell in a lab guest over its port lab.control, in a node.

The protocol is drawn in files/guest/control.c. Ends with the command's status, 124 when it was not done in time.
"""

import os
import re
import socket
import subprocess
import sys
import time

domain, seconds, command = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
xml = subprocess.run(
    ["virsh", "-q", "dumpxml", domain], capture_output=True, text=True, timeout=60, check=False
)
if xml.returncode:
    sys.exit(xml.stderr.strip())
found = re.search(r"path='([^']*)'/>\s*<target type='virtio' name='lab.control'", xml.stdout)
if not found:
    print(f"{domain} does not run, or has no port lab.control", file=sys.stderr)
    sys.exit(125)
path = found.group(1)

deadline = time.monotonic() + seconds + 30
port = socket.socket(socket.AF_UNIX)
while True:  # the port serves one client at a time
    try:
        port.settimeout(5)
        port.connect(path)
        break
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"{path}: {error}")
        time.sleep(0.1)
token = os.urandom(8).hex()
port.sendall(b"\nREQ %s %d %d\n%s" % (token.encode(), seconds, len(command), command))
answer = b""
pattern = re.compile(rb"\x01RES " + token.encode() + rb" (\d+) (\d+)\n")
while True:
    match = pattern.search(answer)
    if match and len(answer) >= match.end() + int(match.group(2)):
        break
    if time.monotonic() > deadline:
        print(f"{domain} does not answer on lab.control", file=sys.stderr)
        sys.exit(125)
    try:
        got = port.recv(65536)
    except TimeoutError:
        continue
    if not got:
        print(f"{domain} went away", file=sys.stderr)
        sys.exit(125)
    answer += got
sys.stdout.buffer.write(answer[match.end() : match.end() + int(match.group(2))])
sys.stdout.flush()
sys.exit(int(match.group(1)))
