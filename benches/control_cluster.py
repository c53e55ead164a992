"""A failover as clients see it: from the command to the first right answer at every node.

Three regions as real processes, an etcd member and a control node in each, mutual TLS between them. A machine is failed
over again and again: planned, and after SIGKILL to everything in the active region. Every node that lives is asked every few
milliseconds; an answer is right when it names the new region's disk server.
"""

import concurrent.futures
import http.client
import json
import os
import ssl
import struct
import socket
import subprocess
import tempfile
import threading
import time
import tomllib

from control_names import Serving

ITEM = "machine/web-1"
NAME = "web-1.machine"
ASK_EVERY = 0.005
ANSWER_DEADLINE = 60
SRV = 33


class Cluster(Serving):
    def __init__(self, binaries, directory):
        self.program, self.data = binaries["farshore"], os.path.join(directory, "data")
        super().__init__([binaries["control_cluster"], self.data, self.program], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the cluster did not start")
        at = json.loads(line)
        self.apis, self.token = at["apis"], at["token"]
        self.tls = ssl.create_default_context(cafile=at["ca"])
        # Certificates name regions, not hosts.
        self.tls.check_hostname = False
        self.configs = {}
        for region in self.apis:
            with open(os.path.join(self.data, region, "region.toml"), "rb") as file:
                self.configs[region] = tomllib.load(file)

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            super().__exit__()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])

    def command(self, *words):
        return [self.program, *words, "--yes", "--data", self.data]

    def cli(self, *words):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            raise RuntimeError(f"farshore {' '.join(words)}: {done.stderr[-800:]}")

    def port(self, region):
        """Where a region serves disks."""
        return int(self.configs[region]["nbd"].rpartition(":")[2])

    def ways(self, region):
        """How a client can ask the region's node, as (name, question): the question returns a port, or None."""
        host, _, port = self.apis[region].rpartition("/")[2].rpartition(":")
        ways = {"concierge": Http(host, int(port), self.tls, f"/concierge/v1/{NAME}", None),
                "API": Http(host, int(port), self.tls, f"/api/v1/directory/{NAME}", self.token)}
        dns = self.configs[region].get("dns")
        if dns:
            ways["DNS"] = Dns(dns["listen"], f"_nbd._tcp.{NAME}.{dns.get('zone', 'farshore.internal')}")
        return ways


class Http:
    """One kept connection; anything but an answer in time is no answer."""

    def __init__(self, host, port, tls, path, token):
        self.make = lambda: http.client.HTTPSConnection(host, port, timeout=2, context=tls)
        self.path, self.headers, self.connection = path, {"authorization": f"Bearer {token}"} if token else {}, None

    def ask(self):
        try:
            self.connection = self.connection or self.make()
            self.connection.request("GET", self.path, headers=self.headers)
            answer = self.connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                return None
            uri = json.loads(body)["endpoints"][0]["uri"]
            return int(uri.split("://")[1].split("/")[0].rpartition(":")[2])
        except (OSError, http.client.HTTPException, IndexError):
            self.connection = None
            return None


class Dns:
    """One question of type SRV over UDP."""

    def __init__(self, server, name):
        host, _, port = server.rpartition(":")
        self.server = (host, int(port))
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
        self.question = struct.pack(">HHHHH", 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", SRV, 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(0.5)
        self.number = 0

    def ask(self):
        self.number = (self.number + 1) & 0xFFFF
        number = struct.pack(">H", self.number)
        try:
            self.socket.sendto(number + self.question, self.server)
            while True:
                answer = self.socket.recv(4096)
                if answer[:2] == number:
                    return self.read(answer)
        except OSError:
            return None

    def read(self, answer):
        """The port of the first record: after the question come a name (a pointer or labels) and ten bytes."""
        if answer[3] & 15 or struct.unpack(">H", answer[6:8])[0] == 0:
            return None
        at = 2 + len(self.question)
        while answer[at] and answer[at] < 0xC0:
            at += 1 + answer[at]
        at += 2 if answer[at] >= 0xC0 else 1
        kind, _, _, _ = struct.unpack(">HHIH", answer[at:at + 10])
        return struct.unpack(">HHH", answer[at + 10:at + 16])[2] if kind == SRV else None


def until_right(way, port, began, stop):
    """Seconds from `began` to the first right answer."""
    while not stop.is_set() and time.monotonic() - began < ANSWER_DEADLINE:
        if way.ask() == port:
            return time.monotonic() - began
        time.sleep(ASK_EVERY)
    return None


def offered(cluster):
    """The ways that these nodes offer, by what they answer before anything has failed."""
    port = cluster.port("paris")
    end = time.monotonic() + ANSWER_DEADLINE
    while True:
        kinds = {region: {kind for kind, way in cluster.ways(region).items() if way.ask() == port} for region in cluster.apis}
        common = set.intersection(*kinds.values())
        if {"DNS", "concierge"} <= common or time.monotonic() > end or ("API" in common and time.monotonic() > end - 50):
            if not common or any(seen != common for seen in kinds.values()):
                raise RuntimeError(f"the nodes do not answer alike: {kinds}")
            return sorted(common)
        time.sleep(0.1)


def fail_over(cluster, kinds, to, nodes, *words):
    """Seconds to the first right answer: {kind: [one per node]}."""
    asked = [(kind, region, cluster.ways(region)[kind]) for region in nodes for kind in kinds]
    stop = threading.Event()
    for _, region, way in asked:
        if way.ask() in (None, cluster.port(to)):
            raise RuntimeError(f"{region} does not answer with the old region before the failover")
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        began = time.monotonic()
        command = subprocess.Popen(cluster.command("failover", ITEM, *words), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        seen = [(kind, region, pool.submit(until_right, way, cluster.port(to), began, stop)) for kind, region, way in asked]
        output, _ = command.communicate(timeout=180)
        if command.returncode != 0:
            stop.set()
            raise RuntimeError(f"failover {' '.join(words)}: {output[-800:]}")
        took = {kind: [] for kind in kinds}
        for kind, region, one in seen:
            if one.result() is None:
                raise RuntimeError(f"{kind} at {region} never answered {to}")
            took[kind].append(one.result())
    return took


def settle(cluster, back):
    """Accepts the failover and protects the other way round."""
    cluster.cli("commit", ITEM)
    cluster.cli("reprotect", ITEM)
    until = time.monotonic() + ANSWER_DEADLINE
    while time.monotonic() < until:
        shown = subprocess.run(cluster.command("status", ITEM, "--output", "json"), capture_output=True, text=True)
        if shown.returncode == 0 and '"streaming"' in shown.stdout.replace(" ", ""):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{ITEM} does not stream to {back}")


def run(binaries, quick=False):
    seen = {}
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as directory, Cluster(binaries, directory) as cluster:
        cluster.cli("machine", "create", "web-1", "--region", "paris", "--disk", "root=4M")
        cluster.cli("protect", ITEM, "--to", "oslo")
        kinds = offered(cluster)
        active, other = "paris", "oslo"
        for _ in range(2 if quick else 10):
            note(seen, "planned", fail_over(cluster, kinds, other, list(cluster.apis), "--planned"))
            active, other = other, active
            settle(cluster, other)
            cluster.tell(f"kill {active}")
            alive = [region for region in cluster.apis if region != active]
            note(seen, "region killed", fail_over(cluster, kinds, other, alive, "--source-is-down"))
            cluster.tell(f"start {active}")
            active, other = other, active
            settle(cluster, other)
    return [{"line": line, **spread(took)} for line, took in seen.items()]


def note(seen, what, took):
    for kind, seconds in took.items():
        seen.setdefault(f"{what}: {kind} at each node", []).extend(seconds)
        seen.setdefault(f"{what}: {kind} at the last node", []).append(max(seconds))


def spread(took):
    took = sorted(took)
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))]
    return {"seen": len(took), "p50": at(0.5), "p99": at(0.99), "max": took[-1]}
