"""Device hubs: telemetry, idle connections and handshakes against Mosquitto; import and merge; a region's death with all devices.

Read in this order: hub_servers (who is measured, and the load), then this file (what). One process holds all devices over
loopback and speaks the same MQTT to everybody. Servers take turns, so that what else the machine does falls on all of them;
figures are medians of the rounds. Mosquitto that keeps nothing is the ceiling: it acknowledges what it has merely read, while a
hub acknowledges what is on its disk.
"""

import os
import re
import resource
import statistics
import subprocess
import tempfile
import time

import hub_servers as servers

ROUNDS = {False: 3, True: 1}
DEVICES = {False: 9_000, True: 500}
IDENTITIES = {False: 1_000_000, True: 50_000}
HANDSHAKES = {False: 5_000, True: 500}
SECONDS = {False: 5.0, True: 1.0}
# For throughput there is always something to do; for delay each device waits for its answer before it speaks again.
SPEAKERS, WINDOW, BYTES = 64, 32, 256
HANDSHAKING_AT_A_TIME = 32
DEATH_SECONDS_MAX = 300
# After the last connection: what only connecting needed is given back by then, where it ever is.
CALM_SECONDS = 1.0
# Of a process with one connection per device.
FILES_BESIDES = 400
GIB_IN_KIB = 1 << 20

CEILING, KEEPING, OURS = "mosquitto", "mosquitto, saves every second", "farshore"
ROWS = {CEILING: servers.Mosquitto, KEEPING: servers.KeepingMosquitto, OURS: servers.Hub}
# Of which connections and handshakes are measured: keeping messages changes neither.
PAIR = (CEILING, OURS)
SAID = re.compile(r"(\d+) (.+) in ([\d.]+) s, \d+/s; at most (\d+) MiB of memory; ([\d.]+) s of processors, (\d+) MiB written")


def telemetry(make, place, tls, seconds):
    """A full window for throughput, then one message at a time for delay."""
    with make(place, SPEAKERS) as server, servers.Load(place) as load:
        server.watch(load)
        load.connect(server.target(tls), SPEAKERS)
        spent = servers.processor(server.pids)
        flood = load.ask(publish={"window": WINDOW, "bytes": BYTES, "seconds": seconds})
        spent = servers.processor(server.pids) - spent
        calm = load.ask(publish={"window": 1, "bytes": BYTES, "seconds": seconds})
        server.account(flood["acknowledged"] + calm["acknowledged"])
        return {"per_second": flood["per_second"], "p99_ms": flood["p99_ms"],
                "cpu_us_each": spent * 1e6 / flood["acknowledged"],
                "one_at_a_time": {key: calm[key] for key in ("per_second", "p50_ms", "p99_ms")}}


def idle(make, place, tls, devices):
    """KiB per connection above the process, which has served one device before."""
    with make(place, devices) as server, servers.Load(place) as load:
        load.connect(server.target(tls), 1)
        load.ask(publish={"window": 1, "bytes": BYTES, "seconds": 0.1})
        before = servers.resident_kib(server.pids)
        connected = load.connect(server.target(tls), devices)
        time.sleep(CALM_SECONDS)
        each = (servers.resident_kib(server.pids) - before) / devices
        return {"kib_each": each, "per_gib": GIB_IN_KIB / each, "connecting_seconds": connected["seconds"]}


def handshakes(make, place, tls, count):
    """Full ones, each with a CONNECT and its answer, by the processor time that the server spent on them."""
    with make(place, count) as server, servers.Load(place) as load:
        target = server.target(tls)
        load.ask(handshakes={"target": target, "count": HANDSHAKING_AT_A_TIME, "at_once": HANDSHAKING_AT_A_TIME})
        spent = servers.processor(server.pids)
        done = load.ask(handshakes={"target": target, "count": count, "at_once": HANDSHAKING_AT_A_TIME})
        spent = servers.processor(server.pids) - spent
        return {"per_core_second": count / spent, "per_second": count / done["seconds"]}


def one_round(place, quick):
    take_turns = lambda rows, measure, *how: {row: measure(ROWS[row], place, *how) for row in rows}
    return {
        "telemetry": {tls: take_turns(ROWS, telemetry, tls, SECONDS[quick]) for tls in ("off", "1.3")},
        "idle": {tls: take_turns(PAIR, idle, tls, DEVICES[quick]) for tls in ("off", "1.3")},
        "handshakes": {tls: take_turns(PAIR, handshakes, tls, HANDSHAKES[quick]) for tls in ("1.2", "1.3")},
    }


def registry(place, count):
    """Import, copy and two merges, in one process; the identities' lines are made on the way."""
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as directory:
        program = os.path.join(place["examples"], "registry_load")
        done = subprocess.run([program, str(count), os.path.join(directory, "registries")], capture_output=True, text=True,
                              timeout=3600)
    if done.returncode != 0:
        raise RuntimeError(f"registry_load failed: {done.stderr or done.stdout}")
    said = [{"what": what, "identities": int(number), "seconds": float(seconds), "peak_mib": int(mib), "processors": float(spent),
             "written_mib": int(written)} for number, what, seconds, mib, spent, written in SAID.findall(done.stdout)]
    one = lambda what: next(line for line in said if line["what"] == what)
    imported, merges = one("imported"), [line for line in said if line["what"] == "merged both ways"]
    return {"identities": count, "import_seconds": imported["seconds"], "import_peak_mib": imported["peak_mib"],
            "import_per_second": count / imported["seconds"], "import_processor_seconds": imported["processors"],
            "copy_seconds": one("copied to the other region")["seconds"],
            "merges": {f"{percent} %": {"seconds": line["seconds"], "joined": line["identities"],
                                        "processor_seconds": line["processors"], "written_mib": line["written_mib"]}
                       for percent, line in zip((1, 2), merges, strict=True)}}


def region_dies(place, devices):
    with servers.Regions(place, devices) as regions, servers.Load(place) as load:
        load.connect(regions.target(), devices)
        return regions.die(load, DEATH_SECONDS_MAX)


def middle(rounds):
    """The median of each figure, however deep."""
    if isinstance(rounds[0], dict):
        return {key: middle([one[key] for one in rounds]) for key in rounds[0]}
    return statistics.median(rounds)


def allow_files(count):
    """For this process and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most not in range(0, count):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return
    raise RuntimeError(f"a process may open {most} files here, and {count} are needed: raise it, as with `ulimit -Hn {count}`")


def run(binary, quick=False):
    examples = os.path.dirname(binary)
    place = {"examples": examples, "farshore": os.path.join(os.path.dirname(examples), "farshore")}
    allow_files(DEVICES[quick] + FILES_BESIDES)
    before = os.getloadavg()[0]
    rounds = [one_round(place, quick) for _ in range(ROUNDS[quick])]
    registries = [registry(place, IDENTITIES[quick]) for _ in range(ROUNDS[quick])]
    deaths = [region_dies(place, DEVICES[quick]) for _ in range(ROUNDS[quick])]
    return {"hub": {"devices": DEVICES[quick], "rounds": ROUNDS[quick], "load_average_before": before, **middle(rounds),
                    "registry": middle(registries),
                    "region_dies": deaths}}


def table(result):
    result = result["hub"]
    parts = [telemetry_lines(result), idle_lines(result), handshake_lines(result), registry_lines(result),
             death_lines(result)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def telemetry_lines(result):
    lines = [f"{f'telemetry, {BYTES} bytes, QoS 1':<32} {'TLS':>4} {'acknowledged':>14} {'of ceiling':>11} {'p99':>9} "
             f"{'CPU each':>9}   {'one at a time p50':>18} {'p99':>9}   load average {result['load_average_before']:.1f}"]
    for tls, rows in result["telemetry"].items():
        for row, seen in rows.items():
            calm = seen["one_at_a_time"]
            lines.append(f"{row:<32} {tls:>4} {seen['per_second']:>12,.0f}/s "
                         f"{seen['per_second'] / rows[CEILING]['per_second']:>10.2f}x {seen['p99_ms']:>6.1f} ms "
                         f"{seen['cpu_us_each']:>6.1f} us   {calm['p50_ms']:>15.2f} ms {calm['p99_ms']:>6.1f} ms")
    return [*lines, "Mosquitto acknowledges before anything is on a disk, and keeps nothing in the first row; Farshore after."]


def idle_lines(result):
    title = f"{result['devices']:,} idle connections"
    lines = [f"{title:<32} {'TLS':>4} {'memory each':>13} {'per GiB':>11} {'all there':>11}"]
    for tls, rows in result["idle"].items():
        for row, seen in rows.items():
            lines.append(f"{row:<32} {tls:>4} {seen['kib_each']:>9.1f} KiB {seen['per_gib']:>11,.0f} "
                         f"{seen['connecting_seconds']:>9.2f} s")
    return lines


def handshake_lines(result):
    lines = [f"{'full TLS handshake, CONNECT':<32} {'TLS':>4} {'per core':>11} {'as measured':>13}"]
    for tls, rows in result["handshakes"].items():
        for row, seen in rows.items():
            lines.append(f"{row:<32} {tls:>4} {seen['per_core_second']:>9,.0f}/s {seen['per_second']:>11,.0f}/s")
    return [*lines, "Mosquitto lets everybody in; Farshore looks the device up and checks its SAS token."]


def registry_lines(result):
    seen = result["registry"]
    title = f"{seen['identities']:,} identities"
    lines = [f"{title:<32} {'seconds':>9} {'per second':>12} {'processors':>11} {'peak memory':>12}",
             f"{'import of devices.txt':<32} {seen['import_seconds']:>9.2f} {seen['import_per_second']:>12,.0f} "
             f"{seen['import_processor_seconds']:>9.2f} s {seen['import_peak_mib']:>8,} MiB",
             f"{'copy to the other region':<32} {seen['copy_seconds']:>9.2f} "
             f"{seen['identities'] / seen['copy_seconds']:>12,.0f}"]
    for changed, merge in seen["merges"].items():
        lines.append(f"{f'merge, {changed} changed on both':<32} {merge['seconds']:>9.2f} {merge['joined'] / merge['seconds']:>12,.0f} "
                     f"{merge['processor_seconds']:>9.2f} s")
    return lines


def death_lines(result):
    title = f"a region dies, {result['devices']:,} devices"
    lines = [f"{title:<32} {'back p50':>9} {'p99':>9} {'last':>9} {'attempts each':>14} {'most':>5} {'failover order':>15}"]
    for number, seen in enumerate(result["region_dies"], 1):
        if not seen["back"]:
            lines.append(f"{f'round {number}':<32} nobody came back")
            continue
        is_all = seen["back"] == seen["devices"]
        last = f"{seen['last_seconds']:>7.2f} s" if is_all else f"{seen['devices'] - seen['back']:>5} out"
        lines.append(f"{f'round {number}':<32} {seen['p50_seconds']:>7.2f} s {seen['p99_seconds']:>7.2f} s {last} "
                     f"{seen['attempts'] / seen['back']:>14.2f} {seen['attempts_max']:>5} {seen['failover_seconds']:>13.2f} s")
    return [*lines, "Back: a message was acknowledged again. Devices know both regions' addresses, as from DNS, and call the first that "
                    "answers;", "the failover is ordered by hand at the moment of death. A hub lets in 2,000 devices a second."]
