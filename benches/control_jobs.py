"""Job steps per second, and the list of ten thousand items under constant health looks, on redb and on etcd.

A real node with the role control, and two regions whose agents are real over HTTP but have no disks: routes, ledger
(synced for each order) and turns are the ones of every node, the work itself is a few words in memory. Everything comes
over the API.
"""

import concurrent.futures
import http.client
import json
import os
import subprocess
import tempfile
import threading
import time

from control_names import Serving, free_port, until

CONTROL, SOURCE, TARGET = "bergen", "paris", "oslo"
# As many requests for jobs at a time as the engine runs jobs.
AT_A_TIME = 32
ITEMS = 10_000
LOOKS_PER_MINUTE_MIN = 10_000
LIST_PAUSE = 0.1
PATTERN = "pattern-machine"


class Agent(Serving):
    def __init__(self, binary, region, directory):
        ledger = os.path.join(directory, f"{region}.ledger")
        super().__init__([binary, region, os.path.join(directory, "secret"), ledger], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        self.url = json.loads(self.process.stdout.readline())["url"]

    def ask(self, line=""):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


class Etcd(Serving):
    """A member on loopback, with the program's own settings."""

    def __init__(self, directory, name, peers, client):
        cluster = ",".join(f"{one}={url}" for one, url in peers.items())
        super().__init__(["etcd", "--name", name, "--data-dir", os.path.join(directory, f"etcd-{name}"),
                          "--listen-client-urls", client, "--advertise-client-urls", client,
                          "--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name],
                          "--initial-cluster", cluster, "--quota-backend-bytes", str(4 << 30)],
                         stdout=subprocess.DEVNULL)


class Control:
    """A control node on a store, with agents and, for etcd, three members."""

    def __init__(self, binaries, store):
        self.binaries, self.store = binaries, store
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        self.path = self.directory.name
        self.token = "farshore-" + os.urandom(16).hex()
        for name, text in (("secret", os.urandom(16).hex()), ("token", self.token)):
            with open(os.path.join(self.path, name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(text)
        self.running = []
        try:
            self.agents = {name: self.started(Agent(binaries["control_agent"], name, self.path))
                           for name in (SOURCE, TARGET)}
            self.endpoints = self.start_etcd() if store == "etcd" else {}
            self.port = free_port()
            self.write_config()
            self.start_node()
        except BaseException:
            self.stop()
            raise

    def started(self, process):
        self.running.append(process)
        return process

    def start_etcd(self):
        names = (SOURCE, TARGET, CONTROL)
        peers = {name: f"http://127.0.0.1:{free_port()}" for name in names}
        clients = {name: f"http://127.0.0.1:{free_port()}" for name in names}
        for name in names:
            self.started(Etcd(self.path, name, peers, clients[name]))
        asked = ["etcdctl", "--endpoints", clients[CONTROL], "endpoint", "health"]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        until("etcd", lambda: subprocess.run(asked, env=environment, check=True, capture_output=True))
        return clients

    def write_config(self):
        self.config = os.path.join(self.path, "region.toml")
        lines = [f'region = "{CONTROL}"', f'data = "{self.path}/node"', 'roles = ["control"]',
                 f'listen = "127.0.0.1:{self.port}"', f'secret_file = "{self.path}/secret"',
                 f'token_file = "{self.path}/token"', f'store = "{self.store}"']
        if self.endpoints:
            lines += ["[etcd.endpoints]", *(f'{name} = "{url}"' for name, url in self.endpoints.items())]
        urls = {CONTROL: f"http://127.0.0.1:{self.port}", **{name: agent.url for name, agent in self.agents.items()}}
        for name, url in urls.items():
            lines += ["[[regions]]", f'name = "{name}"', f'agent = "{url}"', 'replication = "127.0.0.1:1"',
                      f"control = {str(name == CONTROL).lower()}"]
        with open(self.config, "w") as file:
            file.write("\n".join(lines) + "\n")
        os.makedirs(os.path.join(self.path, "node"), exist_ok=True)

    def start_node(self):
        self.node = Serving([self.binaries["farshore"], "node", "--config", self.config, "--until-stdin-closes"],
                            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.running.append(self.node)
        until("the control node", lambda: self.request(self.connect(), "GET", "/readyz")[0] == 200, 60)

    def stop_node(self):
        self.node.process.stdin.close()
        self.node.process.wait(timeout=60)
        self.running.remove(self.node)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(self, connection, method, path, body=None):
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def run_job(self, connection, path, body):
        """Asks for a job and follows its events until they end; returns its id once it has succeeded."""
        status, text = self.request(connection, "POST", path, body)
        if status != 202:
            raise RuntimeError(f"{path}: {status} {text[:500]}")
        job = json.loads(text)["id"]
        _, events = self.request(connection, "GET", f"/api/v1/jobs/{job}/events")
        last = [line for line in events.decode().splitlines() if line.startswith("data: ")][-1]
        seen = json.loads(last.removeprefix("data: "))
        if seen["state"] != "succeeded":
            raise RuntimeError(f"job {job} ({seen['verb']}) {seen['state']}: {seen['why']} {seen['notes']}")
        return job

    def make(self, name, drill=True):
        """Makes and protects a machine, tries its recovery and cleans up: the jobs' ids."""
        connection, item = self.connect(), f"/api/v1/items/machine/{name}"
        spec = {"disks": [{"name": "root", "size_bytes": 1 << 20}]}
        jobs = [self.run_job(connection, "/api/v1/items",
                             {"kind": "machine", "name": name, "region": SOURCE, "spec": spec}),
                self.run_job(connection, f"{item}/protect", {"target": TARGET})]
        if drill:
            jobs.append(self.run_job(connection, f"{item}/test-failover", {}))
            jobs.append(self.run_job(connection, f"{item}/cleanup", {}))
        connection.close()
        return jobs

    def verified(self, jobs):
        """Steps that these jobs' journals say were done and seen."""
        connection = self.connect()
        total = 0
        for job in jobs:
            status, text = self.request(connection, "GET", f"/api/v1/jobs/{job}/log")
            if status != 200:
                raise RuntimeError(f"the log of {job}: {status}")
            total += sum(entry["record"]["happened"] == "verified" for entry in json.loads(text))
        return total

    def stop(self):
        for process in reversed(self.running):
            process.__exit__()
        self.running = []
        self.directory.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def steps(control, machines):
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        jobs = [job for made in pool.map(control.make, (f"web-{number}" for number in range(machines))) for job in made]
    seconds = time.monotonic() - began
    verified = control.verified(jobs)
    if verified < 2 * len(jobs):
        raise RuntimeError(f"{len(jobs)} jobs have only {verified} verified steps")
    return {"store": control.store, "jobs": len(jobs), "steps": verified, "seconds": seconds,
            "steps_per_second": verified / seconds, "jobs_per_second": len(jobs) / seconds}


def items(control, seconds):
    """The list, asked again and again, while the regions are looked at."""
    control.make(PATTERN, drill=False)
    control.stop_node()
    seeded = [control.binaries["control_seed"], control.config, PATTERN, str(ITEMS)]
    subprocess.run(seeded, check=True, stdout=subprocess.DEVNULL)
    for agent in control.agents.values():
        agent.ask(f"copy {PATTERN} {ITEMS}")
    control.start_node()
    connection = control.connect()
    until("the look at all items", lambda: all_seen(control, connection), 120)
    before, took, size = looks(control), [], 0
    began = time.monotonic()
    brief = Others(control)
    while time.monotonic() - began < seconds:
        start = time.monotonic()
        status, text = control.request(connection, "GET", "/api/v1/items")
        took.append(time.monotonic() - start)
        size = len(text)
        check_list(status, text)
        time.sleep(LIST_PAUSE)
    elapsed = time.monotonic() - began
    others = brief.stop()
    per_minute = (looks(control) - before) * 60 / elapsed
    if per_minute < LOOKS_PER_MINUTE_MIN:
        raise RuntimeError(f"only {per_minute:.0f} looks per minute arrived")
    shared = {"store": control.store, "items": ITEMS, "looks_per_minute": per_minute}
    return [{"line": f"{control.store}: all items", **shared, **spread(took), "mib": size / (1 << 20)},
            {"line": f"{control.store}: one item", **shared, **spread(others), "mib": 0.0}]


class Others(threading.Thread):
    """Somebody who looks at one item after another meanwhile."""

    def __init__(self, control):
        super().__init__()
        self.control, self.took, self.wrong, self.done = control, [], None, threading.Event()
        self.start()

    def run(self):
        connection, number = self.control.connect(), 0
        while not self.done.wait(0.02):
            number = (number + 7919) % ITEMS
            start = time.monotonic()
            try:
                status, text = self.control.request(connection, "GET", f"/api/v1/items/machine/copy-{number}")
                self.took.append(time.monotonic() - start)
                if status != 200 or json.loads(text)["name"] != f"copy-{number}":
                    raise RuntimeError(f"copy-{number}: {status} {text[:200]}")
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                self.wrong = error
                return

    def stop(self):
        self.done.set()
        self.join()
        if self.wrong:
            raise RuntimeError(f"one item: {self.wrong}")
        return self.took


def looks(control):
    return sum(agent.ask()["observed"] for agent in control.agents.values())


def check_list(status, text):
    # Every copy, and the machine that they are copies of; nobody missing, nobody twice.
    found = text.count(b'"id":"machine/copy-') if status == 200 else 0
    if status != 200 or found != ITEMS:
        raise RuntimeError(f"the list: {status}, {found} of {ITEMS} items: {text[:300]}")


def all_seen(control, connection):
    status, text = control.request(connection, "GET", "/api/v1/items")
    check_list(status, text)
    # Both regions must have been looked at for each item: answers with nothing in them would be cheap.
    return all(len(item["regions"]) == 2 and all(seen["observation"] for seen in item["regions"]) for item in json.loads(text))


def spread(took):
    took = sorted(took)
    at = lambda share: 1000 * took[min(len(took) - 1, int(len(took) * share))]
    return {"requests": len(took), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": 1000 * took[-1]}


def run(binaries, quick=False):
    result = {"steps": [], "items": []}
    for store in ("redb", "etcd"):
        with Control(binaries, store) as control:
            result["steps"].append(steps(control, 60 if quick else 300))
        with Control(binaries, store) as control:
            result["items"] += items(control, 15 if quick else 60)
    return result
