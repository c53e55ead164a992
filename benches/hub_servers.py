"""The servers under load: Mosquitto, one hub by itself, and a hub in two regions; and the load.

Each server tells the load where devices connect (`target`) and which processes serve (`pids`); each is ended with its `with`.
Devices are called `device-0` and so on; a device's key is the SHA-256 of its name, so that the load needs no list.
"""

import base64
import hashlib
import json
import os
import select
import subprocess
import tempfile
import threading
import time
import tomllib

from control_names import Asked, Serving, children, free_port, processor_seconds, until

# The name in the certificates, user names and tokens of a hub that stands alone, and of Mosquitto.
HOST = "contoso.hub"
READY_SECONDS = 120
# For importing, copying and failing over thousands of devices on a busy machine.
CLI_SECONDS = 600
# Connections that are being opened at the same time, except after a region's death: then it is all of them.
OPENING_AT_A_TIME = 128
CERTIFICATE = """
set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj '/CN=an authority'
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem -subj '/CN=a broker'
printf 'subjectAltName=DNS:%s' "$1" > names
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names
"""


def write_devices(path, count):
    """As an operator would import them: devices.txt."""
    with open(path, "w") as file:
        for number in range(count):
            name = f"device-{number}"
            key = base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()
            keys = {"primaryKey": key, "secondaryKey": key}
            file.write(json.dumps({"id": name, "status": "enabled",
                                   "authentication": {"type": "sas", "symmetricKey": keys}}) + "\n")


class Load(Asked):
    """The devices."""

    def __init__(self, place):
        super().__init__([os.path.join(place["examples"], "hubload")])

    def connect(self, target, devices):
        return self.ask(connect={"target": target, "devices": devices, "at_once": OPENING_AT_A_TIME})


class Server(Serving):
    """Has `ports` by transport, `ca` and `directory`."""

    host = HOST

    def target(self, tls):
        """`tls`: "off", "1.2" or "1.3"."""
        port = self.ports["plain" if tls == "off" else "tls"]
        return {"addresses": [f"127.0.0.1:{port}"], "host": self.host, "tls": tls, "ca": self.ca}

    def __exit__(self, *_):
        super().__exit__()
        self.directory.cleanup()


class Hub(Server):
    """One hub in one region, alone: what a node serves, without a control plane, and with a listener without TLS."""

    def __init__(self, place, devices):
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        identities = os.path.join(self.directory.name, "devices.txt")
        write_devices(identities, devices)
        super().__init__([os.path.join(place["examples"], "fleet"), os.path.join(self.directory.name, "hub"), "127.0.0.1",
                          identities, "any-ports"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not select.select([self.process.stdout], [], [], READY_SECONDS)[0]:
            raise RuntimeError(f"the hub is not ready after {READY_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the hub did not start")
        told = json.loads(line)
        self.ports = {"plain": told["mqtt"].rpartition(":")[2], "tls": told["mqtts"].rpartition(":")[2]}
        self.ca, self.pids = told["ca"], [self.pid]

    def watch(self, load):
        """Whatever is acknowledged is kept, for every reader."""

    def account(self, acknowledged):
        """What was acknowledged is in the log: a figure for anything else would be none."""
        self.process.stdin.write("stats\n")
        self.process.stdin.flush()
        stored = json.loads(self.process.stdout.readline())["telemetry"]["stored"]
        if stored != acknowledged:
            raise RuntimeError(f"{acknowledged} messages were acknowledged, and {stored} are stored")


class Mosquitto(Server):
    """Anybody may come in, nothing is kept: the ceiling of what a broker in C does on this machine."""

    def __init__(self, _place, _devices, lines=()):
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        at = lambda name: os.path.join(self.directory.name, name)
        subprocess.run(["sh", "-c", CERTIFICATE, "sh", self.host], cwd=self.directory.name, capture_output=True, check=True)
        self.ca = at("ca.pem")
        self.ports = {"plain": free_port(), "tls": free_port()}
        config = at("mosquitto.conf")
        with open(config, "w") as file:
            file.write("\n".join([
                "user root", "per_listener_settings false", "allow_anonymous true", "log_type none", "set_tcp_nodelay true",
                f"persistence_location {self.directory.name}/", *lines, f"listener {self.ports['plain']} 127.0.0.1", f"listener {self.ports['tls']} 127.0.0.1",
                f"certfile {at('cert.pem')}", f"keyfile {at('key.pem')}", ""]))
        super().__init__(["mosquitto", "-c", config], stdout=subprocess.DEVNULL)
        self.pids = [self.pid]
        for port in self.ports.values():
            until("mosquitto", lambda: listening(port))

    def watch(self, load):
        """Nobody subscribes: a message is dropped as soon as it is read."""

    def account(self, acknowledged):
        """It promises nothing."""


class KeepingMosquitto(Mosquitto):
    """Keeps messages for a reader who is away, and writes all of them to its file every second. It acknowledges before it writes
    and does not wait for the disk: what a lost machine takes with it was acknowledged."""

    READER = 1_000_000

    def __init__(self, place, devices):
        lines = ["persistence true", "autosave_interval 1", "max_queued_messages 0", "max_queued_bytes 0"]
        super().__init__(place, devices, lines)

    def watch(self, load):
        load.ask(subscribe={"target": self.target("off"), "number": self.READER, "filter": "devices/+/messages/events/#"})


def listening(port):
    with open("/proc/net/tcp") as table:
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in table.readlines()[1:])


class Regions:
    """`farshore up`: paris serves the hub, oslo follows and has the control plane; both are real processes."""

    HUB, NEAR, FAR = "fleet", "paris", "oslo"

    def __init__(self, place, devices):
        self.program = place["farshore"]
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        self.data = os.path.join(self.directory.name, "data")
        self.up = Serving([self.program, "up", "--data", self.data, "--regions", f"{self.NEAR},{self.FAR}"],
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            until("farshore up", lambda: os.path.exists(os.path.join(self.data, "client.json")), READY_SECONDS)
            self.cli("hub", "create", self.HUB, "--region", self.NEAR, "--secondary", self.FAR)
            identities = os.path.join(self.directory.name, "devices.txt")
            write_devices(identities, devices)
            self.cli("hub", "import", self.HUB, identities)
            until("the copy in oslo", lambda: self.is_copied(devices), CLI_SECONDS)
        except BaseException:
            self.__exit__()
            raise

    def cli(self, *words):
        command = [self.program, *words, "--yes", "--output", "json", "--data", self.data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLI_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"farshore {' '.join(words)}: {done.stderr[-800:]}")
        return done.stdout

    def show(self):
        return json.loads(self.cli("hub", "show", self.HUB))

    def is_copied(self, devices):
        seen = self.show()
        far = seen["replication"]
        return seen["devices"]["total"] == devices and far and far["state"] == "streaming" and not far["records_behind"]

    def target(self):
        """As a device sees a name with both regions' addresses: it calls the first that takes its connection."""
        addresses = []
        for region in (self.NEAR, self.FAR):
            with open(os.path.join(self.data, region, "region.toml"), "rb") as file:
                addresses.append(tomllib.load(file)["hubs"]["mqtt"])
        return {"addresses": addresses, "host": f"{self.HUB}.hub.farshore.internal", "tls": "1.3",
                "ca": os.path.join(self.data, "devices-ca.pem")}

    def node(self, region):
        """The process of a region."""
        for pid in children(self.up.pid)[1:]:
            with open(f"/proc/{pid}/cmdline") as line:
                if f"/{region}/" in line.read():
                    return pid
        raise RuntimeError(f"{region} has no process")

    def die(self, load, seconds_max):
        """Kills the region with all devices; an operator who stands by orders the failover at once."""
        failed = {}

        def order():
            began = time.monotonic()
            try:
                self.cli("failover", f"hub/{self.HUB}", "--source-is-down")
            except (RuntimeError, subprocess.SubprocessError) as error:
                failed["why"] = error
            failed["seconds"] = time.monotonic() - began

        load.order(kill={"pid": self.node(self.NEAR), "seconds_max": seconds_max})
        operator = threading.Thread(target=order)
        operator.start()
        answer = load.answer()
        operator.join()
        if "why" in failed:
            raise failed["why"]
        return {**answer, "failover_seconds": failed["seconds"]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.up.__exit__()
        self.directory.cleanup()


def resident_kib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return total


def processor(pids):
    return sum(map(processor_seconds, pids))
