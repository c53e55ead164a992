"""Writing while replicating, against QEMU's background mirror, and the lag at a steady rate."""

import os
import subprocess
import tempfile
import time

import region

SIZE = 4 << 30
SECONDS = 8
LINES = [
    ("4K randwrite qd16", "iops", ["--rw=randwrite", "--bs=4k", "--iodepth=16"]),
    ("4K write qd1", "iops", ["--rw=randwrite", "--bs=4k", "--iodepth=1"]),
    ("64K seq write qd4", "MiB/s", ["--rw=write", "--bs=64k", "--iodepth=4"]),
]


def figures(uri, size, seconds):
    result = {}
    for name, unit, options in LINES:
        write = region.fio(uri, *options, f"--size={size}", seconds=seconds)["write"]
        result[name] = write["iops"] if unit == "iops" else write["bw_bytes"] / (1 << 20)
    return result


class Mirror:
    """qemu-storage-daemon serving a raw file while it mirrors to another one that qemu-nbd serves on loopback."""

    def __init__(self, directory, size):
        source, copy = os.path.join(directory, "source.raw"), os.path.join(directory, "copy.raw")
        for path in (source, copy):
            with open(path, "wb") as file:
                file.truncate(size)
        self.path, far, monitor = (os.path.join(directory, name) for name in ("near.sock", "far.sock", "qmp.sock"))
        self.far = subprocess.Popen(["qemu-nbd", "-t", "-k", far, "-f", "raw", "--cache=writeback", copy])
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
    seconds = 3 if quick else SECONDS
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as directory:
        mirror = Mirror(directory, SIZE)
        try:
            theirs = figures(mirror.uri(), SIZE, seconds)
        finally:
            mirror.stop()
    with region.Pair(binary, SIZE) as pair:
        ours = figures(pair.paris.uri(), SIZE, seconds)
    with region.Pair(binary, SIZE) as pair:
        lags = [lag(pair, rate, seconds) for rate in (20, 100)]
    rows = [{"line": name, "unit": unit, "farshore": ours[name], "qemu_mirror": theirs[name],
             "ratio": ours[name] / theirs[name]} for name, unit, _ in LINES]
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
