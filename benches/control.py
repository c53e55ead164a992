"""The control plane: names, failovers as clients see them, job steps, and the list of ten thousand items.

Read in this order: control_names (concierge and DNS against nginx and nsd), control_cluster (a failover, seen at every
node), control_jobs (steps per second and the list of items, on redb and on etcd).
"""

import os

import control_cluster
import control_jobs
import control_names


def run(binary, quick=False):
    examples = os.path.dirname(binary)
    binaries = {name: os.path.join(examples, name)
                for name in ("names_serve", "control_agent", "control_cluster", "control_seed")}
    binaries["farshore"] = os.path.join(os.path.dirname(examples), "farshore")
    return {"control": {
        "names": control_names.run(binaries, quick),
        "failover": control_cluster.run(binaries, quick),
        **control_jobs.run(binaries, quick),
    }}


def table(result):
    result = result["control"]
    lines = [f"{'one core each, loopback':<26} {'farshore':>14} {'per core s':>11} {'peer':>7} {'':>9} {'per core s':>11} {'ratio':>6}"]
    for row in result["names"]:
        ours, peer = row["farshore"], row["peer"]
        lines.append(f"{row['line']:<26} {ours['per_second']:>12,.0f}/s {ours['per_core_second']:>11,.0f} "
                     f"{row['peer_name']:>7} {peer['per_second']:>7,.0f}/s {peer['per_core_second']:>11,.0f} "
                     f"{row['ratio_per_core']:>6.2f}")
    lines += ["", f"{'failover, first right answer':<40} {'p50':>9} {'p99':>9} {'max':>9} {'answers':>8}"]
    for row in result["failover"]:
        lines.append(f"{row['line']:<40} {row['p50']:>7.3f} s {row['p99']:>7.3f} s {row['max']:>7.3f} s {row['seen']:>8}")
    lines += ["", f"{'job engine':<20} {'steps/s':>9} {'jobs/s':>9} {'verified steps':>15} {'jobs':>7}"]
    for row in result["steps"]:
        lines.append(f"{row['store']:<20} {row['steps_per_second']:>9,.0f} {row['jobs_per_second']:>9,.0f} "
                     f"{row['steps']:>15,} {row['jobs']:>7,}")
    lines += ["", f"{'list of items':<20} {'items':>7} {'looks/min':>10} {'requests':>9} {'p50':>9} {'p99':>9} {'max':>9} {'body':>9}"]
    for row in result["items"]:
        lines.append(f"{row['line']:<20} {row['items']:>7,} {row['looks_per_minute']:>10,.0f} {row['requests']:>9,} "
                     f"{row['p50_ms']:>6.1f} ms {row['p99_ms']:>6.1f} ms {row['max_ms']:>6.1f} ms {row['mib']:>5.1f} MiB")
    return "\n".join(lines)
