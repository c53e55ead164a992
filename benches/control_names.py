"""Names: the concierge against nginx with the same bytes as static files, DNS against nsd with the same zone.

Servers are pinned to one core and the load comes from another; both servers are asked over loopback, without TLS, with
keepalive, for a thousand names in turn. What counts is answers per second of processor time that the server's processes
used: what else the machine does cannot flatter or harm one of them.
"""

import json
import os
import re
import select
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

NAMES = 1_000
SERVER_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
# What a client sees differ between two answers of one name: when it was signed, and when to ask again.
TIMES = ("not_after", "poll_after")

WRK_SCRIPT = """
local requests, at = {}, 0
init = function() for i = 0, %d do requests[i] = wrk.format("GET", "/concierge/v1/item-" .. i .. ".machine") end end
request = function() at = (at + 1) %% %d; return requests[at] end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('JSON {"requests":%%d,"bytes":%%d,"micros":%%d,"errors":%%d,"p99_us":%%d}\\n', summary.requests,
    summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(99)))
end
""" % (NAMES - 1, NAMES)


def children(pid):
    """The process and all below it."""
    found = [pid]
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/stat") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                    found += children(int(number))
        except OSError:
            continue
    return found


def processor_seconds(pid):
    """Processor time that a process and those below it have used."""
    total = 0
    for one in children(pid):
        try:
            with open(f"/proc/{one}/stat") as stat:
                total += sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue
    return total / TICKS


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read(), answer.headers


def pinned(core, *command):
    return ["taskset", "-c", core, *map(str, command)]


def until(what, holds, seconds=20):
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (OSError, subprocess.SubprocessError):
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"{what} is not ready after {seconds} s")
        time.sleep(0.02)


class Serving:
    """A server process that is ended with its `with`."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Asked(Serving):
    """A program that takes one order a line, as JSON, and gives one answer a line."""

    def __init__(self, command):
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the program that makes the load has ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def ask(self, **order):
        self.order(**order)
        return self.answer()


class Ours(Serving):
    def __init__(self, binary):
        super().__init__(pinned(SERVER_CORE, binary, NAMES), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not select.select([self.process.stdout], [], [], 30)[0]:
            raise RuntimeError("names_serve is not ready after 30 s")
        self.at = json.loads(self.process.stdout.readline())
        self.base = self.at["concierge"].removesuffix("/concierge/v1/")
        host, _, port = self.at["dns"].rpartition(":")
        self.dns = (host, int(port))


class Nginx(Serving):
    """One worker, its files' descriptors kept open, no log: nginx at its best."""

    def __init__(self, directory, ours):
        root = os.path.join(directory, "www")
        os.makedirs(os.path.join(root, "concierge", "v1"))
        headers = {}
        for number in range(NAMES):
            body, headers = get(f"{ours.base}/concierge/v1/item-{number}.machine")
            with open(os.path.join(root, "concierge", "v1", f"item-{number}.machine"), "wb") as file:
                file.write(body)
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        signature = next((name for name in headers if "signature" in name.lower()), None)
        extra = f"add_header {signature} '{headers[signature]}';" if signature else ""
        config = os.path.join(directory, "nginx.conf")
        with open(config, "w") as file:
            file.write(f"""daemon off; user root; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type application/json;
  open_file_cache max={2 * NAMES}; open_file_cache_valid 3600s;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; add_header Cache-Control 'max-age=5'; {extra} }} }}""")
        super().__init__(pinned(SERVER_CORE, "nginx", "-c", config, "-p", directory))
        until("nginx", lambda: get(f"{self.base}/concierge/v1/item-0.machine"))


class Nsd(Serving):
    """The same zone in one server process; its rate limit per client off."""

    def __init__(self, directory, ours):
        self.dns = ("127.0.0.1", free_port(socket.SOCK_DGRAM))
        zone = ours.at["zone"]
        with open(os.path.join(directory, "zone"), "w") as file:
            file.write(f"$ORIGIN {zone}.\n$TTL 5\n@ SOA ns-paris hostmaster 1 60 60 600 5\n@ NS ns-paris\nns-paris A 127.0.0.1\n")
            for number in range(NAMES):
                file.write(f"item-{number}.machine A 10.0.{number >> 8}.{number & 255}\n")
        config = os.path.join(directory, "nsd.conf")
        with open(config, "w") as file:
            file.write(f"""server:
  ip-address: 127.0.0.1@{self.dns[1]}
  server-count: 1
  username: ""
  database: ""
  zonesdir: "{directory}"
  pidfile: "{directory}/nsd.pid"
  xfrdfile: "{directory}/xfrd.state"
  xfrdir: "{directory}"
  zonelistfile: "{directory}/zone.list"
  cookie-secret-file: ""
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "{zone}"
  zonefile: "zone"
""")
        super().__init__(pinned(SERVER_CORE, "nsd", "-d", "-c", config), stdout=subprocess.DEVNULL)
        until("nsd", lambda: dig(self.dns, f"item-0.machine.{zone}"))


def dig(server, *names):
    """The addresses of the names, in their order."""
    questions = [word for name in names for word in (name, "A")]
    command = ["dig", f"@{server[0]}", "-p", str(server[1]), "+short", "+tries=1", "+time=2", *questions]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def check_concierge(ours, nginx):
    """Both give the same answers, word for word but for the times that the concierge renews."""
    for number in range(0, NAMES, NAMES // 20):
        path = f"/concierge/v1/item-{number}.machine"
        seen = []
        for server in (ours, nginx):
            answer = json.loads(get(server.base + path)[0])
            seen.append({key: value for key, value in answer.items() if key not in TIMES})
        if seen[0] != seen[1] or seen[0]["name"] != f"item-{number}.machine" or not seen[0]["endpoints"]:
            raise RuntimeError(f"{path}: the concierge answers {seen[0]}, nginx {seen[1]}")


def check_dns(servers, zone):
    numbers = range(0, NAMES, NAMES // 20)
    expected = [f"10.0.{number >> 8}.{number & 255}" for number in numbers]
    for name, server in servers.items():
        seen = dig(server.dns, *(f"item-{number}.machine.{zone}" for number in numbers))
        if seen != expected:
            raise RuntimeError(f"{name} answers {seen} instead of {expected}")


def wrk(server, script, seconds):
    before = processor_seconds(server.pid)
    command = pinned(LOAD_CORE, "wrk", "-t1", "-c32", f"-d{seconds}s", "-s", script, server.base)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = processor_seconds(server.pid) - before
    line = next(line for line in output.splitlines() if line.startswith("JSON "))
    seen = json.loads(line.removeprefix("JSON "))
    if seen["errors"] or not seen["requests"]:
        raise RuntimeError(f"wrk met {seen['errors']} errors in {seen['requests']} requests to {server.base}")
    return {"per_second": seen["requests"] * 1e6 / seen["micros"], "per_core_second": seen["requests"] / used,
            "p99_ms": seen["p99_us"] / 1000}


def dnsperf(server, questions, seconds):
    before = processor_seconds(server.pid)
    command = pinned(LOAD_CORE, "dnsperf", "-s", server.dns[0], "-p", server.dns[1], "-d", questions, "-l", seconds,
                     "-c", 8, "-q", 64, "-T", 1)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = processor_seconds(server.pid) - before
    number = lambda words: int(re.search(words + r":\s+(\d+)", output).group(1))
    completed, lost = number("Queries completed"), number("Queries lost")
    good = int(re.search(r"Response codes:\s+NOERROR (\d+)", output).group(1))
    if good != completed or lost > completed // 1000:
        raise RuntimeError(f"dnsperf: {completed} answers, {good} without an error, {lost} lost")
    rate = float(re.search(r"Queries per second:\s+([\d.]+)", output).group(1))
    latency = float(re.search(r"Average Latency \(s\):\s+([\d.]+)", output).group(1))
    return {"per_second": rate, "per_core_second": completed / used, "mean_ms": latency * 1000, "lost": lost}


def rounds(count, servers, measure):
    """Medians of short rounds in which the servers take turns."""
    seen = {name: [] for name in servers}
    for number in range(count):
        for name in list(servers) if number % 2 == 0 else reversed(servers):
            seen[name].append(measure(servers[name]))
    return {name: {key: statistics.median(one[key] for one in figures) for key in figures[0]}
            for name, figures in seen.items()}


def row(line, peer, figures):
    ours, theirs = figures["farshore"], figures[peer]
    return {"line": line, "peer_name": peer, "farshore": ours, "peer": theirs,
            "ratio_per_core": ours["per_core_second"] / theirs["per_core_second"]}


def run(binaries, quick=False):
    count, seconds = (3, 2) if quick else (5, 5)
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as directory:
        script, questions = os.path.join(directory, "names.lua"), os.path.join(directory, "questions")
        with open(script, "w") as file:
            file.write(WRK_SCRIPT)
        with Ours(binaries["names_serve"]) as ours:
            with open(questions, "w") as file:
                file.writelines(f"item-{number}.machine.{ours.at['zone']} A\n" for number in range(NAMES))
            with Nginx(directory, ours) as nginx:
                check_concierge(ours, nginx)
                http = rounds(count, {"farshore": ours, "nginx": nginx}, lambda server: wrk(server, script, seconds))
                check_concierge(ours, nginx)
            if not shutil.which("nsd"):
                raise RuntimeError("nsd is not installed")
            with Nsd(directory, ours) as nsd:
                servers = {"farshore": ours, "nsd": nsd}
                check_dns(servers, ours.at["zone"])
                dns = rounds(count, servers, lambda server: dnsperf(server, questions, seconds))
                check_dns(servers, ours.at["zone"])
    return [row("concierge lookups, HTTP", "nginx", http), row("DNS answers, UDP", "nsd", dns)]
