"""Writing while replicating, against QEMU's background mirror, and the lag at a steady rate."""

import os
import statistics
import subprocess
import tempfile
import time

import region

SIZE = 4 << 30
SECONDS = 4
ROUNDS = 3
QUICK_ROUNDS = 1
LAG_SECONDS = 8
QUICK_LAG_SECONDS = 3
LINES = [
    ("4K randwrite qd16", "iops", ["--rw=randwrite", "--bs=4k", "--iodepth=16"]),
    ("4K write qd1", "iops", ["--rw=randwrite", "--bs=4k", "--iodepth=1"]),
    ("64K seq write qd4", "MiB/s", ["--rw=write", "--bs=64k", "--iodepth=4"]),
]


def figure(uri, unit, options):
    write = region.fio(uri, *options, f"--size={SIZE}", seconds=SECONDS)["write"]
    return write["iops"] if unit == "iops" else write["bw_bytes"] / (1 << 20)


def compare(pair, mirror, rounds):
    """The median of a few rounds, in which the two take turns; each has sent on everything before the other begins."""
    rows = []
    for name, unit, options in LINES:
        seen = {"farshore": [], "qemu_mirror": []}
        for _ in range(rounds):
            seen["farshore"].append(figure(pair.paris.uri(), unit, options))
            pair.settle()
            seen["qemu_mirror"].append(figure(mirror.uri(), unit, options))
            mirror.settle()
        figures = {server: statistics.median(rounds) for server, rounds in seen.items()}
        rows.append({"line": name, "unit": unit, **figures, "ratio": figures["farshore"] / figures["qemu_mirror"]})
    return rows


class Mirror:
    """qemu-storage-daemon serving a raw file while it mirrors to another one that qemu-nbd serves on loopback."""

    def __init__(self, directory, size):
        source, copy = os.path.join(directory, "source.raw"), os.path.join(directory, "copy.raw")
        for path in (source, copy):
            with open(path, "wb") as file:
                file.truncate(size)
        self.path, far, monitor = (os.path.join(directory, name) for name in ("near.sock", "far.sock", "qmp.sock"))
        self.far = subprocess.Popen(["qemu-nbd", "-t", "-k", far, "-f", "raw", "--cache=writeback", copy],
                                    stderr=subprocess.DEVNULL)
        region.wait_socket(far)
        self.daemon = subprocess.Popen([
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=f0,filename={source}",
            "--blockdev", "driver=raw,node-name=n0,file=f0",
            "--blockdev", f"driver=nbd,node-name=t0,server.type=unix,server.path={far}",
            "--nbd-server", f"addr.type=unix,addr.path={self.path},max-connections=4",
            "--export", "type=nbd,id=e0,node-name=n0,name=disk,writable=on",
            "--chardev", f"socket,id=c0,path={monitor},server=on,wait=off", "--monitor", "chardev=c0"])
        self.qmp = region.Qmp(monitor)
        self.qmp.run("blockdev-mirror", **{"job-id": "m0", "device": "n0", "target": "t0", "sync": "none",
                                           "copy-mode": "background"})

    def uri(self):
        return f"nbd+unix:///disk?socket={self.path}"

    def settle(self, seconds=600):
        """Waits until the copy has everything."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            job = self.qmp.run("query-block-jobs")[0]
            if job["len"] == job["offset"]:
                return
            time.sleep(0.05)
        raise RuntimeError(f"the mirror did not catch up in {seconds} s")

    def stop(self):
        for process in (self.daemon, self.far):
            process.kill()
            process.wait()


def lag(pair, megabytes, seconds):
    """Worst, 99th percentile and median of the lag while writing steadily, in seconds."""
    writer = subprocess.Popen(
        ["fio", "--name=lag", "--ioengine=nbd", f"--uri={pair.paris.uri()}", "--rw=randwrite", "--bs=64k", "--iodepth=4",
         f"--size={SIZE}", f"--rate={megabytes}m", "--time_based=1", f"--runtime={seconds}"],
        stdout=subprocess.DEVNULL)
    samples = []
    while writer.poll() is None:
        replication = pair.paris.observe()["replication"]
        samples.append(replication["lag"]["seconds"] if replication else float("inf"))
        time.sleep(0.02)
    samples.sort()
    at = lambda share: samples[min(len(samples) - 1, int(len(samples) * share))]
    return {"mb_per_second": megabytes, "p50": at(0.5), "p99": at(0.99), "worst": samples[-1]}


def run(binary, quick=False):
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as directory:
        mirror = Mirror(directory, SIZE)
        try:
            with region.Pair(binary, SIZE) as pair:
                rows = compare(pair, mirror, QUICK_ROUNDS if quick else ROUNDS)
        finally:
            mirror.stop()
    with region.Pair(binary, SIZE) as pair:
        lags = [lag(pair, rate, QUICK_LAG_SECONDS if quick else LAG_SECONDS) for rate in (20, 100)]
    return {"replicating": rows, "lag": lags}


def table(result):
    lines = [f"{'while replicating (async)':<22} {'unit':>6} {'farshore':>10} {'qemu mirror':>12} {'ratio':>7}"]
    for row in result["replicating"]:
        lines.append(f"{row['line']:<22} {row['unit']:>6} {row['farshore']:>10,.0f} {row['qemu_mirror']:>12,.0f} "
                     f"{row['ratio']:>7.2f}")
    lines.append("")
    for row in result["lag"]:
        lines.append(f"lag at {row['mb_per_second']:>3} MB/s: median {row['p50']:.3f} s, p99 {row['p99']:.3f} s, "
                     f"worst {row['worst']:.3f} s")
    return "\n".join(lines)
