"""Network namespaces that stand for machines: each its own addresses, ports and loopback."""

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

SUBNET = "10.231.77"


def _ip(*words):
    return subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True)


class Machines:
    """Namespaces on one switch, which this process is on, too; removed with the block.

    The names of its interfaces and namespaces carry the process's number.
    """

    def __init__(self):
        self._mark = f"vr{os.getpid() % 100_000}"
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self):
        switch = self._mark
        try:
            self._namespace(switch)
            _ip("-n", switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", switch, "link", "set", "switch", "up")
            self._cable(None, 254)
        except (OSError, subprocess.CalledProcessError) as error:
            self._stack.close()
            why = getattr(error, "stderr", None) or error
            pytest.skip(f"network namespaces cannot be made here: {why}")
        return self

    def __exit__(self, *_):
        self._stack.close()

    def add(self):
        """A further machine: the words that run a command there, and its address."""
        self._count += 1
        name = f"{self._mark}n{self._count}"
        self._namespace(name)
        _ip("-n", name, "link", "set", "lo", "up")
        address = self._cable(name, self._count)
        hosts = Path("/etc/netns") / name / "hosts"  # what `ip netns exec` puts over /etc/hosts
        hosts.parent.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, hosts.parent)
        hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
        return ["ip", "netns", "exec", name], address

    def _namespace(self, name):
        _ip("netns", "add", name)
        self._stack.callback(_ip, "netns", "delete", name)

    def _cable(self, namespace, number):
        """Plug a namespace (None: this process's) into the switch; its address."""
        near, far = f"{self._mark}c{number}", f"p{number}"
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self._mark)
        inside = [] if namespace is None else ["-n", namespace]
        if namespace is None:
            self._stack.callback(_ip, "link", "delete", near)
        else:
            _ip("link", "set", near, "netns", namespace)
        _ip("-n", self._mark, "link", "set", far, "master", "switch", "up")
        address = f"{SUBNET}.{number}"
        _ip(*inside, "address", "add", f"{address}/24", "dev", near)
        _ip(*inside, "link", "set", near, "up")
        return address
