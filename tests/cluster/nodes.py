"""A Ray cluster on this machine: one `ray start` a node, ports of its own, and a token."""

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
BASE_PORT = 23_000
PORTS_PER_NODE = 200
_OFFSETS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


class Node:
    """A `ray start` process, and what it says."""

    def __init__(self, command, env, log):
        self._command, self._env, self._log = command, env, log
        self.start()

    def start(self):
        """Start it, or start it again, as the unit in `cluster/systemd` does."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        self.is_wanted = True

    def has_ended(self):
        return self.is_wanted and self._process.poll() is not None

    def kill(self):
        """Take it away, without a word."""
        self.is_wanted = False
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def said(self):
        return self._log.read_text()[-2000:]


class RayNodes:
    """Starts and kills nodes; all end with the block.

    Args:
        cache: the clip stores' folder, which every node sees.
        machines: `Machines`, of which each node gets one; None: all are on this machine's loopback.
    """

    def __init__(self, cache, base_port=None, machines=None, **env):
        self._machines = machines
        self.token = secrets.token_hex(32)
        self._stack = ExitStack()
        self._base = base_port or self._stack.enter_context(own_ports())
        self._count = 0
        self._nodes = []
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vr")))
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            # A job's `python` is that of the cluster's own environment.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "VPETL_CACHE": str(cache),
            **env,
        }
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self.host = "127.0.0.1"

    @property
    def url(self):
        """The job server's."""
        return f"http://{self.host}:{self._base + 1}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def head(self, num_cpus=0):
        """Start the head and wait until its job server answers."""
        inside, self.host = self._machine()
        node = self._start(
            "--head", f"--port={self._base}", "--include-dashboard=true",
            f"--dashboard-host={self.host}", f"--dashboard-port={self._base + 1}",
            f"--temp-dir={self._folder / 'ray'}", f"--ray-client-server-port={self._base + 2}",
            num_cpus=num_cpus, inside=inside, host=self.host,
        )  # fmt: skip
        self._wait(lambda: _answers(f"{self.url}/api/version"), node)
        return node

    def join(self, num_cpus=1):
        """Start a worker node; it may take a moment until it is seen."""
        # A folder of its own, as on a machine of its own: nodes that share one delete each other's
        # copies of the working directory.
        folder = self._folder / f"n{self._count + 1}"
        inside, host = self._machine()
        return self._start(
            f"--address={self.host}:{self._base}", f"--temp-dir={folder}",
            num_cpus=num_cpus, inside=inside, host=host,
        )  # fmt: skip

    def _machine(self):
        return self._machines.add() if self._machines else ([], "127.0.0.1")

    def wait_for(self, num_nodes, seconds=240):
        """Wait until so many nodes are alive, the head among them.

        A node that ends while it starts, as may be on a machine that is busy with much else, is
        started again.
        """
        deadline = time.monotonic() + seconds
        while (found := self._num_alive()) != num_nodes:
            for node in filter(Node.has_ended, self._nodes):
                print("a node is started again, which said:", self._said(), flush=True)
                node.start()
            assert time.monotonic() < deadline, f"{found} nodes, not {num_nodes}: {self._said()}"
            time.sleep(0.5)

    def _said(self):
        errors = (path.read_text()[:2000] for path in self._folder.glob("*/*/logs/raylet.err"))
        return "\n".join([*(node.said() for node in self._nodes), *errors])

    def _num_alive(self):
        request = urllib.request.Request(
            f"{self.url}/nodes?view=summary", headers={"Authorization": f"Bearer {self.token}"}
        )
        nodes = json.load(urllib.request.urlopen(request, timeout=10))["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def submit(self, *words, cwd, env=None):
        """Run the door that talks to the job server."""
        return subprocess.Popen(
            [sys.executable, "-m", "vpetl_ray.submit", *map(str, words)],
            cwd=cwd,
            env=self.env if env is None else env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _start(self, *words, num_cpus, inside, host):
        first = self._base + PORTS_PER_NODE * (self._count + 1)
        self._count += 1
        ports = [f"--{name}={first + i}" for i, name in enumerate(_OFFSETS)]
        ports += [f"--min-worker-port={first + 20}", f"--max-worker-port={first + 199}"]
        command = [
            *inside, RAY, "start", "--block", f"--node-ip-address={host}",
            f"--num-cpus={num_cpus}", "--num-gpus=0",
            "--object-store-memory=100000000", "--disable-usage-stats", *ports, *words,
        ]  # fmt: skip
        node = Node(command, self.env, self._folder / f"node{self._count}.log")
        self._nodes.append(node)
        self._stack.callback(node.kill)
        return node

    def _wait(self, is_ready, node, seconds=180):
        deadline = time.monotonic() + seconds
        while not is_ready():
            assert not node.has_ended(), self._said()
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.2)


@contextmanager
def own_ports():
    """The first of a range of ports that no other test on this machine has, and nobody listens on.

    Below those that the system gives to whoever asks for any.
    """
    for base in range(BASE_PORT, 32_000, 2_000):
        with (Path(tempfile.gettempdir()) / f"vpetl-ports-{base}").open("w") as mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            with socket.socket() as probe:
                is_free = probe.connect_ex(("127.0.0.1", base)) != 0
            if is_free:
                yield base
                return
    raise AssertionError("no free ports")


def _answers(url):
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return False
    return True
