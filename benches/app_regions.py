"""`farshore up` with an app service, its clients, and an operator who stands by; all of it through what everybody has: the URL, the
API and the command line.

A client knows a URL and a key. It asks the concierge where the name leads, keeps its connection, and asks again when that breaks;
a row counts as acknowledged when 201 came. The operator looks at the URL ten times a second from outside, and orders the migration
when it has not answered twice in a row: that is the detection which the figures include.
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from control_names import Serving, children, until

APP, RESERVE, NEAR, FAR = "todo", "todo-dr", "paris", "oslo"
READY_SECONDS, CLI_SECONDS = 60, 120
CLIENTS = 4
# A region that is gone refuses; one that hangs is left after this.
ANSWER_SECONDS = 2.0
PAUSE_SECONDS = 0.01
LOOK_SECONDS = 0.1
MISSES = 2


class Regions:
    """Paris serves, oslo follows and has the control plane; both are real processes."""

    def __init__(self, program):
        self.program = program
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        self.data = os.path.join(self.directory.name, "data")
        self.up = Serving([program, "up", "--data", self.data, "--regions", f"{NEAR},{FAR}"],
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            until("farshore up", lambda: os.path.exists(os.path.join(self.data, "client.json")), READY_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        with open(os.path.join(self.data, "client.json")) as file:
            client = json.load(file)
        with open(client["token_file"]) as file:
            self.token = file.read().strip()
        self.api = client["api"]

    def cli(self, *words):
        command = [self.program, *words, "--yes", "--output", "json", "--data", self.data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLI_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"farshore {' '.join(words)}: {done.stderr[-800:]}")
        return done.stdout

    def get(self, path):
        request = urllib.request.Request(f"{self.api}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=CLI_SECONDS) as answer:
            return json.load(answer)

    def host(self, name, scripts, command, database, mode="basic", settings=()):
        self.cli("app", "create", name, "--region", NEAR, "--mode", mode, "--command", command, "--database", database)
        for setting in settings:
            self.cli("app", "setting", "set", name, setting)
        self.cli("app", "deploy", name, scripts)

    def protect(self, replication):
        self.cli("app", "reserve", RESERVE, "--region", FAR, "--mode", "basic", "--for", APP)
        item = self.get(f"/api/v1/items/app/{APP}")
        if item["target"] is None:
            self.cli("protect", f"app/{APP}", "--to", FAR, "--replication", replication)

    def url(self):
        return self.get(f"/api/v1/apps/{APP}")["urls"][0].rstrip("/")

    def place(self):
        """Where the name leads now, as the concierge says."""
        with urllib.request.urlopen(f"{self.api}/concierge/v1/{APP}.app", timeout=ANSWER_SECONDS) as answer:
            endpoints = json.load(answer)["endpoints"]
        uri = next(endpoint["uri"] for endpoint in endpoints if endpoint["name"] == "http")
        at = urllib.parse.urlsplit(uri)
        return at.hostname, at.port

    def node(self, region):
        """The process of a region."""
        for pid in children(self.up.pid)[1:]:
            with open(f"/proc/{pid}/cmdline") as line:
                if f"/{region}/" in line.read():
                    return pid
        raise RuntimeError(f"{region} has no process")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.up.__exit__()
        self.directory.cleanup()


class Connection:
    """One kept connection to wherever the URL leads."""

    def __init__(self, regions, host):
        self.regions, self.host, self.connection = regions, host, None

    def ask(self, method, path, body=None):
        """The status and body of the answer; None: there was none."""
        try:
            if self.connection is None:
                address, port = self.regions.place()
                self.connection = http.client.HTTPConnection(address, port, timeout=ANSWER_SECONDS)
            self.connection.request(method, path, body, {"Host": self.host, "Content-Type": "application/json"})
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException, StopIteration):
            self.close()
            return None

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Clients:
    """They add rows, each after the one before was acknowledged, under its id until it is."""

    def __init__(self, regions):
        self.regions, self.host = regions, urllib.parse.urlsplit(regions.url()).netloc
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.acknowledged = []
        self.threads = [threading.Thread(target=self.write, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def write(self, number):
        connection, row = Connection(self.regions, self.host), 0
        while not self.stop.is_set():
            row += 1
            name = f"client-{number}-{row}"
            body = json.dumps({"id": name, "text": "milk"})
            while not self.stop.is_set():
                seen = connection.ask("POST", "/todos", body)
                if seen and seen[0] == 201:
                    with self.lock:
                        self.acknowledged.append((time.monotonic(), name))
                    break
                connection.close()
                time.sleep(PAUSE_SECONDS)

    def wait_rows(self, count):
        want = len(self.acknowledged) + count
        until(f"{count} more rows", lambda: len(self.acknowledged) >= want, CLI_SECONDS)

    def present(self):
        connection = Connection(self.regions, self.host)
        rows = []
        def look():
            seen = connection.ask("GET", "/todos")
            if not seen or seen[0] != 200:
                connection.close()
                return False
            rows.extend(row["id"] for row in json.loads(seen[1]))
            return True
        until("the rows", look, CLI_SECONDS)
        return set(rows)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Operator(threading.Thread):
    """Sees from outside that the app does not answer, and migrates it onto its reserve."""

    def __init__(self, regions, host):
        super().__init__()
        self.regions, self.host = regions, host
        self.detected = self.failed = None
        self.start()

    def run(self):
        connection, missed = Connection(self.regions, self.host), 0
        while missed < MISSES:
            seen = connection.ask("GET", "/status")
            missed = 0 if seen and seen[0] < 500 else missed + 1
            time.sleep(LOOK_SECONDS)
        self.detected = time.monotonic()
        try:
            self.regions.cli("app", "migrate", APP, RESERVE, "--quiet")
        except (RuntimeError, subprocess.SubprocessError) as error:
            self.failed = error


def die(regions, rows):
    """Kills paris while clients write. Seconds to the first row that is acknowledged again, and what became of the others."""
    clients = Clients(regions)
    try:
        clients.wait_rows(rows)
        operator = Operator(regions, clients.host)
        pid = regions.node(NEAR)
        killed = time.monotonic()
        os.kill(pid, 9)
        operator.join()
        if operator.failed:
            raise operator.failed
        clients.wait_rows(CLIENTS)
    finally:
        clients.end()
    first = min(at for at, _ in clients.acknowledged if at > operator.detected)
    owed = {name for _, name in clients.acknowledged}
    lost = owed - clients.present()
    return {"first_seconds": first - killed, "detected_seconds": operator.detected - killed, "rows": len(owed), "lost": len(lost)}


def modules(root, target):
    """The driver of PostgreSQL for Node, installed once."""
    place = os.path.join(target, "bench-app")
    if not os.path.exists(os.path.join(place, "node_modules", "pg")):
        os.makedirs(place, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(root, "benches", "app", name), place)
        subprocess.run(["npm", "ci", "--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
                       check=True, stdout=sys.stderr)
    return place
