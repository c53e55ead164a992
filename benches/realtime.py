"""Real-time hubs: memory per idle connection, fan-out, and a region's death with all its clients.

Read in this order: realtime_servers (who is measured), then this file (what). One generator of load in a process of its
own holds all connections over loopback, publishes, and looks at what each client gets. Servers take turns, so that what else
the machine does falls on all of them; figures are medians of the rounds. The first row has no protocol at all: what Farshore
costs above it is what the protocol costs.
"""

import os
import resource
import statistics
import time

import realtime_servers as servers
from control_names import Asked, processor_seconds

ROUNDS = 3
CLIENTS = {False: 9_000, True: 2_000}
BURST = {"messages": 100, "per_second": 0.0, "seconds_max": 60}
PACED = {"messages": 30, "per_second": 10.0, "seconds_max": 60}
# For the time from publishing to receiving.
DELIVERIES_PER_SECOND, DELAY_SECONDS = 50_000, 6
RETURN = {"per_second": 5.0, "seconds_before": 2, "seconds_max": 180}
# After the last connection: what only connecting needed is given back by then, where it ever is.
CALM_SECONDS = 1.0
# Of a process with one connection per client.
FILES_BESIDES = 200

ROWS = {
    "bare: shared frame, writev": servers.Bare,
    "farshore": servers.Farshore,
    "farshore, reliable, two regions": lambda place: servers.Farshore(place, replicated=True),
    "uWebSockets.js": servers.Uws,
    "ws": servers.Ws,
    "socket.io": servers.SocketIo,
    "nats-server": servers.Nats,
}
FLOOR = "bare: shared frame, writev"


class Load(Asked):
    """The generator."""

    def __init__(self, place):
        super().__init__([os.path.join(place["examples"], "rtload")])

    def connect(self, server, clients):
        return self.ask(connect={"target": server.target, "clients": clients, "seconds_max": 120})

    def publish(self, order):
        """A server that refuses a message or loses one has failed: what it spent on that is no figure."""
        answer = self.ask(publish=order)
        if answer["refusal"]:
            raise RuntimeError(f"a message was refused: {answer['refusal']}")
        return answer


def resident_kib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return total


def processor(pids):
    return sum(map(processor_seconds, pids))


def idle(server, load, clients):
    """KiB per connection above the process, which has served one client before."""
    load.ask(publisher=server.publisher)
    load.connect(server, 1)
    load.publish({"messages": 1, "per_second": 0.0, "seconds_max": 30})
    server.settle()
    before = resident_kib(server.pids)
    connected = load.connect(server, clients)
    time.sleep(CALM_SECONDS)
    server.settle()
    return {"idle_kib": (resident_kib(server.pids) - before) / clients, "connecting_seconds": connected["seconds"]}


def fan_out(server, load, order):
    """What a run of messages costs the server, and when they come; `None`: not all of them came."""
    spent, generator = processor(server.pids), processor_seconds(load.pid)
    answer = load.publish(order)
    spent, generator = processor(server.pids) - spent, processor_seconds(load.pid) - generator
    if answer["deliveries"] < answer["expected"] or answer["dropped"]:
        return None
    return {"cpu_seconds": spent, "generator_cpu_seconds": generator, "seconds": answer["seconds"],
            "deliveries": answer["deliveries"], "p50_ms": answer["p50_ms"], "p99_ms": answer["p99_ms"]}


def one_round(make, place, clients):
    per_second = DELIVERIES_PER_SECOND / clients
    delay = {"messages": int(per_second * DELAY_SECONDS), "per_second": per_second, "seconds_max": 60}
    with make(place) as server, Load(place) as load:
        return {**idle(server, load, clients), "burst": fan_out(server, load, BURST),
                "paced": fan_out(server, load, PACED), "delay": fan_out(server, load, delay)}


def region_dies(place, clients):
    """All clients are in the region that is killed; the publisher uses the survivor's endpoint of the pair."""
    with servers.Farshore(place, replicated=True) as server, Load(place) as load:
        load.ask(publisher=server.publisher_at(server.at(server.FAR, "pair")))
        load.connect(server, clients)
        return load.ask(kill={"pid": server.nodes[server.NEAR].pid, **RETURN})


def middle(rounds):
    """The median of each figure, however deep; `None` where a round has none."""
    if isinstance(rounds[0], dict) and all(rounds):
        return {key: middle([one[key] for one in rounds]) for key in rounds[0]}
    return None if any(one is None for one in rounds) else statistics.median(rounds)


def allow_files(count):
    """For this process and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most not in range(0, count):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return
    raise RuntimeError(f"a process may open {most} files here, and {count} are needed: raise it, as with `ulimit -Hn {count}`")


def run(binary, quick=False):
    examples = os.path.dirname(binary)
    release = os.path.dirname(examples)
    place = {"examples": examples, "farshore": os.path.join(release, "farshore"),
             "node_modules": servers.install_peers(os.path.dirname(release))}
    clients = CLIENTS[quick]
    allow_files(clients + FILES_BESIDES)
    seen = {row: [] for row in ROWS}
    for _ in range(ROUNDS):
        for row, make in ROWS.items():
            seen[row].append(one_round(make, place, clients))
    deaths = [region_dies(place, clients) for _ in range(ROUNDS)]
    return {"realtime": {"clients": clients, "rounds": ROUNDS,
                         "servers": {row: middle(rounds) for row, rounds in seen.items()}, "region_dies": deaths}}


def table(result):
    result = result["realtime"]
    floor = result["servers"][FLOOR]
    title = f"{result['clients']:,} connections, 256 bytes"
    lines = [f"{title:<32} {'idle':>13} {'burst CPU':>10} {'':>6} {'paced CPU':>10} {'':>6} "
             f"{'p50':>8} {'p99':>8}   at {DELIVERIES_PER_SECOND:,}/s"]
    for row, seen in result["servers"].items():
        delay = seen["delay"]
        late = f"{delay['p50_ms']:>5.1f} ms {delay['p99_ms']:>5.1f} ms" if delay else f"{'stalled':>17}"
        lines.append(f"{row:<32} {seen['idle_kib']:>5.1f} KiB each {spent(seen, floor, 'burst')} "
                     f"{spent(seen, floor, 'paced')} {late}")
    lines += ["", f"{'a region dies with all clients':<32} {'back p50':>9} {'p99':>9} {'last':>9} {'recovered':>10} "
                  f"{'owed':>11} {'lost':>7} {'twice':>7}"]
    for number, seen in enumerate(result["region_dies"], 1):
        if seen["p50_seconds"] is None:
            lines.append(f"{f'round {number}':<32} nobody came back")
            continue
        last = f"{seen['last_seconds']:>7.2f} s" if seen["all_back"] else f"{seen['clients'] - seen['back']:>5} out"
        lines.append(f"{f'round {number}':<32} {seen['p50_seconds']:>7.2f} s {seen['p99_seconds']:>7.2f} s {last} "
                     f"{seen['recovered']:>10,} {seen['owed']:>11,} {seen['lost']:>7,} {seen['duplicates']:>7,}")
    return "\n".join(lines)


def spent(seen, floor, phase):
    """Processor seconds, and how many times the floor's."""
    if not seen[phase]:
        return f"{'stalled':>17}"
    times = f"{seen[phase]['cpu_seconds'] / floor[phase]['cpu_seconds']:.2f}x" if floor[phase] else ""
    return f"{seen[phase]['cpu_seconds']:>8.2f} s {times:>6}"
