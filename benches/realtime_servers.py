"""The servers under load: a bare one, uWebSockets.js, ws, socket.io, nats-server, and Farshore in one region or two.

Each tells the load where its clients connect (`target`), where messages are published (`publisher`) and which processes
serve (`pids`); each is ended with its `with`. The peers in Node are pinned beside their programs in `realtime/`.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import urllib.request

from control_names import Serving, free_port, until

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(HERE, "realtime")
READY_SECONDS = 60
TOKEN_SECONDS = 24 * 3600
HUB = "chat"


def install_peers(target):
    """Installs the peers in Node at their pinned versions, once; returns where."""
    place = os.path.join(target, "bench-realtime")
    with open(os.path.join(PROGRAMS, "package-lock.json"), "rb") as file:
        wanted = hashlib.sha256(file.read()).hexdigest()
    mark = os.path.join(place, "installed")
    if not os.path.exists(mark) or read(mark) != wanted:
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(PROGRAMS, name), place)
        command = ["npm", "ci", "--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise RuntimeError(f"npm cannot install the peers that {PROGRAMS}/package-lock.json names")
        with open(mark, "w") as file:
            file.write(wanted)
    return os.path.join(place, "node_modules")


def read(path):
    with open(path) as file:
        return file.read()


class Server(Serving):
    """One that prints its port as JSON, takes messages by HTTP at any path, and ends when its input closes."""

    protocol, path = "plain", "/"

    def __init__(self, command, **options):
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        if not select.select([self.process.stdout], [], [], READY_SECONDS)[0]:
            raise RuntimeError(f"{command} is not ready after {READY_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command} did not start")
        self.address = f"127.0.0.1:{json.loads(line)['port']}"
        self.pids = [self.pid]
        self.target = {"protocol": self.protocol, "address": self.address, "path": self.path}
        self.publisher = {"http": {"address": self.address, "path": "/publish", "authorization": None}}

    def settle(self):
        """Lets go of what only connecting needed, where a server can be asked to."""


class Bare(Server):
    def __init__(self, place):
        super().__init__([os.path.join(place["examples"], "bare")])


class Node(Server):
    program = None

    def __init__(self, place):
        super().__init__(["node", "--expose-gc", os.path.join(PROGRAMS, self.program)],
                         env={**os.environ, "NODE_PATH": place["node_modules"]})

    def settle(self):
        order = urllib.request.Request(f"http://{self.address}/settle", data=b"", method="POST")
        urllib.request.urlopen(order, timeout=30).close()


class Uws(Node):
    program = "uws.js"


class Ws(Node):
    program = "ws.js"


class SocketIo(Node):
    program, protocol, path = "socketio.js", "socket-io", "/socket.io/?EIO=4&transport=websocket"


class Nats(Serving):
    """WebSocket for the clients, its own protocol for the publisher."""

    def __init__(self, _):
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        tcp, websocket = free_port(), free_port()
        config = os.path.join(self.directory.name, "nats.conf")
        with open(config, "w") as file:
            file.write(f'listen: "127.0.0.1:{tcp}"\nmax_connections: 64000\n'
                       f'websocket {{ listen: "127.0.0.1:{websocket}", no_tls: true, compression: false }}\n')
        super().__init__(["nats-server", "-c", config], stdout=subprocess.DEVNULL)
        self.pids = [self.pid]
        self.target = {"protocol": "nats", "address": f"127.0.0.1:{websocket}", "path": "/"}
        self.publisher = {"nats": {"address": f"127.0.0.1:{tcp}"}}
        for port in (tcp, websocket):
            until("nats-server", lambda: listening(port))

    def settle(self):
        pass

    def __exit__(self, *_):
        super().__exit__()
        self.directory.cleanup()


def listening(port):
    with open("/proc/net/tcp") as table:
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in table.readlines()[1:])


class Farshore:
    """A control node, and one region or two with the role `realtime`; all are real processes.

    `replicated`: clients speak the reliable protocol, and the partner keeps every session's state before a publisher hears
    that its message was taken.
    """

    CONTROL, NEAR, FAR = "bergen", "paris", "oslo"

    def __init__(self, place, replicated=False):
        self.program, self.replicated = place["farshore"], replicated
        self.regions = [self.NEAR, self.FAR] if replicated else [self.NEAR]
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        self.ports = {region: {use: free_port() for use in ("api", "listen", "pair", "link")}
                      for region in (self.CONTROL, *self.regions)}
        self.nodes = {}
        for name in ("secret", "token"):
            text = os.urandom(16).hex() if name == "secret" else f"farshore-{os.urandom(16).hex()}"
            with open(self.file(name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(text)
        try:
            for region in (*self.regions, self.CONTROL):
                self.start(region)
            until("the control node", lambda: self.get(self.CONTROL, "/readyz"), READY_SECONDS)
            self.create()
        except BaseException:
            self.__exit__()
            raise
        self.pids = [self.nodes[region].pid for region in self.regions]
        near = self.at(self.NEAR, "listen")
        protocol = "reliable-json" if replicated else "json"
        self.target = {"protocol": protocol, "address": near, "path": f"/client/hubs/{HUB}",
                       "token": {"audience": f"http://{near}/client/hubs/{HUB}", "key": self.key,
                                 "expires": int(time.time()) + TOKEN_SECONDS}}
        if replicated:
            self.target["fallback"] = self.at(self.FAR, "listen")
        self.publisher = self.publisher_at(near)

    def file(self, name):
        return os.path.join(self.directory.name, name)

    def at(self, region, use):
        return f"127.0.0.1:{self.ports[region][use]}"

    def config(self, region):
        role = "control" if region == self.CONTROL else "realtime"
        lines = [f'region = "{region}"', f'data = "{self.file(region)}"', f'roles = ["{role}"]',
                 f'listen = "{self.at(region, "api")}"', f'secret_file = "{self.file("secret")}"']
        if region == self.CONTROL:
            lines += [f'token_file = "{self.file("token")}"']
        else:
            lines += ["[realtime]", *(f'{use} = "{self.at(region, use)}"' for use in ("listen", "pair", "link")),
                      'take_over = "address"']
        for name in (self.CONTROL, *self.regions):
            lines += ["[[regions]]", f'name = "{name}"', f'agent = "http://{self.at(name, "api")}"',
                      'replication = "127.0.0.1:1"', f"control = {str(name == self.CONTROL).lower()}"]
            if name != self.CONTROL:
                places = ", ".join(f'{use} = "{self.at(name, use)}"' for use in ("listen", "pair", "link"))
                lines.append(f"realtime = {{ {places} }}")
        return "\n".join(lines) + "\n"

    def start(self, region):
        os.makedirs(self.file(region), exist_ok=True)
        path = self.file(f"{region}.toml")
        with open(path, "w") as file:
            file.write(self.config(region))
        self.nodes[region] = Serving([self.program, "node", "--config", path, "--until-stdin-closes"],
                                     stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def get(self, region, path):
        with urllib.request.urlopen(f"http://{self.at(region, 'api')}{path}", timeout=5) as answer:
            return answer.status == 200

    def cli(self, *words):
        command = [self.program, *words, "--yes", "--api", f"http://{self.at(self.CONTROL, 'api')}",
                   "--token-file", self.file("token")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            raise RuntimeError(f"farshore {' '.join(words)}: {done.stderr[-800:]}")
        return done.stdout

    def create(self):
        partner = ["--secondary", self.FAR] if self.replicated else []
        self.cli("realtime", "create", HUB, "--region", self.NEAR, *partner)
        self.key = re.search(r"AccessKey=([^;\s]+)", self.cli("realtime", "connection-string", HUB))[1]
        for region in self.regions:
            until(f"the hub in {region}", lambda: self.served(region), READY_SECONDS)

    def served(self, region):
        """Whether the region takes a message for the hub."""
        publisher = self.publisher_at(self.at(region, "listen"))["http"]
        order = urllib.request.Request(f"http://{publisher['address']}{publisher['path']}", data=b"x", method="POST",
                                       headers={"authorization": publisher["authorization"], "content-type": "text/plain"})
        with urllib.request.urlopen(order, timeout=5) as answer:
            return answer.status == 202

    def publisher_at(self, address):
        """As an application publishes: REST, with a token for this one URL."""
        path = f"/api/hubs/{HUB}/:send?api-version=2024-12-01"
        claims = {"aud": f"http://{address}{path}", "exp": int(time.time()) + TOKEN_SECONDS}
        return {"http": {"address": address, "path": path, "authorization": f"Bearer {token(claims, self.key)}"}}

    def settle(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.__exit__()
        self.directory.cleanup()


def token(claims, key):
    """HS256."""
    encoded = lambda part: base64.urlsafe_b64encode(part).rstrip(b"=")
    signed = b".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return b".".join([signed, encoded(hmac.new(key.encode(), signed, hashlib.sha256).digest())]).decode()
