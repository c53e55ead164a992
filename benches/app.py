"""App services: the gateway against nginx; a region's death seen at the app's URL, on both databases; restoring against cp; memory.

Read in this order: app_gateway (requests per second), app_regions (regions, clients, an operator), then this file (what).
"""

import json
import os
import statistics
import subprocess
import time

import app_gateway
import app_regions
from app_regions import APP, NEAR, Regions
from hub_servers import resident_kib

ROUNDS = {False: 3, True: 1}
ROWS = {False: 400, True: 100}
HOSTED = {False: 20, True: 5}
RESTORED_MIB = {False: 512, True: 64}
# After the last change: what only starting needed is given back by then.
CALM_SECONDS = 2.0
WAYS = [("SQLite, synchronous", "sqlite", "sync"), ("SQLite, asynchronous", "sqlite", "async"),
        ("PostgreSQL, synchronous", "postgres", "sync"), ("PostgreSQL, asynchronous", "postgres", "async")]


def hosted(regions, place, name, database, mode="basic"):
    if database == "sqlite":
        regions.host(name, place["todo"], f"exec {place['farshore']} example todo", database, mode)
    else:
        regions.host(name, place["service"], "exec node server.js", database, mode, [f"MODULES={place['modules']}"])


def region_dies(place, database, replication, rows):
    with Regions(place["farshore"]) as regions:
        hosted(regions, place, APP, database)
        regions.cli("protect", f"app/{APP}", "--to", app_regions.FAR, "--replication", replication)
        regions.protect(replication)
        return app_regions.die(regions, rows)


def memory(place, count):
    """KiB of the node for each app that is hosted and idle, beside its own processes. The smallest mode: all fit into a region."""
    with Regions(place["farshore"]) as regions:
        hosted(regions, place, "first", "sqlite", "free")
        time.sleep(CALM_SECONDS)
        before = resident_kib([regions.node(NEAR)])
        for number in range(count):
            hosted(regions, place, f"app-{number}", "sqlite", "free")
        time.sleep(CALM_SECONDS)
        return (resident_kib([regions.node(NEAR)]) - before) / count


def restore(place, mib):
    """Seconds per GiB of restoring a replica, integrity check included, against cp of the same file, both durable."""
    seen = subprocess.run([place["restore"], str(mib)], check=True, capture_output=True, text=True).stdout
    return json.loads(seen)


def middle(rounds):
    return {key: statistics.median([one[key] for one in rounds]) for key in rounds[0]}


def run(binary, quick=False):
    examples = os.path.dirname(binary)
    target = os.path.dirname(os.path.dirname(examples))
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    place = {"farshore": os.path.abspath(os.path.join(os.path.dirname(examples), "farshore")),
             "restore": os.path.join(examples, "restore"), "todo": os.path.join(root, "examples", "todo"),
             "service": os.path.join(root, "benches", "app"), "modules": os.path.abspath(app_regions.modules(root, target))}
    deaths = {line: [region_dies(place, database, replication, ROWS[quick]) for _ in range(ROUNDS[quick])]
              for line, database, replication in WAYS}
    return {"app": {**app_gateway.run(examples, quick), "region_dies": deaths, "hosted": HOSTED[quick],
                    "kib_each": memory(place, HOSTED[quick]), "restored_mib": RESTORED_MIB[quick],
                    "restore": middle([restore(place, RESTORED_MIB[quick]) for _ in range(ROUNDS[quick])])}}


def table(result):
    result = result["app"]
    lines = [app_gateway.table(result), "",
             f"{'a region dies':<26} {'first row at the URL':>21} {'of it, detection':>17} {'rows':>7} {'lost':>5}"]
    for line, rounds in result["region_dies"].items():
        for seen in rounds:
            lines.append(f"{line:<26} {seen['first_seconds']:>19.2f} s {seen['detected_seconds']:>15.2f} s {seen['rows']:>7,} "
                         f"{seen['lost']:>5}")
    seen = result["restore"]
    lines += ["Detection: an operator's program looks at the URL ten times a second and migrates when two looks in a row fail.", "",
              f"restore of {result['restored_mib']} MiB of SQLite, proved whole: {seen['restore_seconds_per_gib']:.2f} s per GiB (the proof alone, again: "
              f"{seen['check_seconds_per_gib']:.2f} s); cp and sync: {seen['cp_seconds_per_gib']:.2f} s per GiB",
              f"memory of the node for each idle app: {result['kib_each']:.0f} KiB ({result['hosted']} hosted)"]
    return "\n".join(lines)
