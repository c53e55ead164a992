"""The gateway of apps against nginx as the reverse proxy: the same instance behind both, connections kept on both sides.

The instance is an nginx that answers from memory, so that the proxies are what is measured. Two ways to look at it: each proxy
pinned to one core with the load and the instance on the other, and everything on all cores as an operator would run it. The
servers take turns in short rounds. What a busy machine cannot flatter is answers per second of processor time that the
proxy's own processes used; requests per second and p99 are what a client sees in the same rounds.
"""

import json
import os
import re
import select
import subprocess
import tempfile

from control_names import LOAD_CORE, SERVER_CORE, Serving, free_port, get, pinned, processor_seconds, rounds, until

HOST = "todo.example"
CONNECTIONS = 64
SMALL = '{"id":1,"text":"milk","complete":false}'
LARGE_KIB = 64

WRK_SCRIPT = """
wrk.headers["Host"] = "%s"
wrk.headers["X-ZUMO-APPLICATION"] = "0123456789abcdef0123456789abcdef"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('JSON {"requests":%%d,"micros":%%d,"errors":%%d,"p50_us":%%d,"p99_us":%%d}\\n', summary.requests,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
""" % HOST

NGINX = """daemon off; user root; worker_processes %(workers)d; pid %(at)s/nginx.pid; error_log %(at)s/error.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; default_type application/json; tcp_nodelay on;
  client_body_temp_path %(at)s/body; proxy_temp_path %(at)s/proxy; fastcgi_temp_path %(at)s/fastcgi;
  uwsgi_temp_path %(at)s/uwsgi; scgi_temp_path %(at)s/scgi;
  %(rest)s }"""

INSTANCE = """open_file_cache max=16; sendfile on;
  server { listen 127.0.0.1:%(port)d; location /small { return 200 '%(small)s'; } location / { root %(at)s; } }"""

# What the gateway does, too: HTTP/1.1 and kept connections to the instance, and the headers that name the client.
PROXY = """upstream app { server 127.0.0.1:%(instance)d; keepalive 256; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:%(port)d; server_name %(host)s; location / {
    proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host; } }"""


def on(core, *command):
    """On this core, or on all."""
    return pinned(core, *command) if core else [str(word) for word in command]


class Nginx(Serving):
    def __init__(self, core, workers, rest, **named):
        self.directory = tempfile.TemporaryDirectory(prefix="farshore-bench-")
        at, port = self.directory.name, free_port()
        os.chmod(at, 0o755)
        with open(os.path.join(at, "large"), "wb") as file:
            file.write(b"x" * LARGE_KIB * 1024)
        rest = rest % {"at": at, "port": port, **named}
        config = os.path.join(at, "nginx.conf")
        with open(config, "w") as file:
            file.write(NGINX % {"at": at, "workers": workers, "rest": rest})
        self.port, self.base = port, f"http://127.0.0.1:{port}"
        super().__init__(on(core, "nginx", "-c", config, "-p", at))
        until("nginx", lambda: get(f"{self.base}/small"))

    def __exit__(self, *_):
        super().__exit__()
        self.directory.cleanup()


class Gateway(Serving):
    """As in a node: one runtime with a thread for each core it may use."""

    def __init__(self, core, program, instance):
        super().__init__(on(core, program, f"127.0.0.1:{instance}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not select.select([self.process.stdout], [], [], 30)[0]:
            raise RuntimeError("the gateway is not ready after 30 s")
        self.base = f"http://{json.loads(self.process.stdout.readline())['http']}"


def check(server, path, length):
    """Both must pass on the whole body of the instance."""
    command = ["curl", "-sS", "-H", f"Host: {HOST}", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", server.base + path]
    seen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if seen != f"200 {length}":
        raise RuntimeError(f"{server.base}{path} answers {seen!r} instead of 200 with {length} bytes")


def wrk(core, server, script, path, seconds):
    before = processor_seconds(server.pid)
    command = on(core, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, server.base + path)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = processor_seconds(server.pid) - before
    seen = json.loads(re.search(r"^JSON (.*)$", output, re.MULTILINE).group(1))
    if seen["errors"] or not seen["requests"]:
        raise RuntimeError(f"wrk met {seen['errors']} errors in {seen['requests']} requests to {server.base}")
    return {"per_second": seen["requests"] * 1e6 / seen["micros"], "per_core_second": seen["requests"] / used,
            "p50_ms": seen["p50_us"] / 1000, "p99_ms": seen["p99_us"] / 1000}


def compare(program, line, cores, count, seconds):
    server_core, load_core, workers = cores
    answers = [("small answer", "/small", len(SMALL)), (f"{LARGE_KIB} KiB answer", "/large", LARGE_KIB * 1024)]
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script, Nginx(load_core, 1, INSTANCE, small=SMALL) as instance:
        script.write(WRK_SCRIPT)
        script.flush()
        with Gateway(server_core, program, instance.port) as ours, \
                Nginx(server_core, workers, PROXY, instance=instance.port, host=HOST) as theirs:
            servers = {"farshore": ours, "nginx": theirs}
            for what, path, length in answers:
                for server in servers.values():
                    check(server, path, length)
                figures = rounds(count, servers, lambda server: wrk(load_core, server, script.name, path, seconds))
                a, b = figures["farshore"], figures["nginx"]
                rows.append({"line": f"{what}, {line}", "peer_name": "nginx", "farshore": a, "peer": b,
                             "ratio": a["per_second"] / b["per_second"],
                             "ratio_per_core": a["per_core_second"] / b["per_core_second"]})
    return rows


def run(binary_dir, quick=False):
    """`binary_dir` has the example `gateway`. Rows of a table, each with both sides' figures and their ratios."""
    program = os.path.join(binary_dir, "gateway")
    count, seconds = (3, 2) if quick else (7, 4)
    one_core = (SERVER_CORE, LOAD_CORE, 1)
    all_cores = (None, None, os.cpu_count())
    return {"gateway": compare(program, "one core", one_core, count, seconds)
            + compare(program, "all cores", all_cores, count, seconds)}


def table(result):
    lines = [f"{'reverse proxy, ' + str(CONNECTIONS) + ' connections':<30} {'farshore':>11} {'per core s':>11} {'p99':>9} "
             f"{'nginx':>11} {'per core s':>11} {'p99':>9} {'ratio':>6} {'per core':>9}"]
    for row in result["gateway"]:
        a, b = row["farshore"], row["peer"]
        lines.append(f"{row['line']:<30} {a['per_second']:>9,.0f}/s {a['per_core_second']:>11,.0f} {a['p99_ms']:>6.1f} ms "
                     f"{b['per_second']:>9,.0f}/s {b['per_core_second']:>11,.0f} {b['p99_ms']:>6.1f} ms "
                     f"{row['ratio']:>6.2f} {row['ratio_per_core']:>9.2f}")
    return "\n".join(lines)
