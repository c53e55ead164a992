"""Serving a disk that is not replicated, against qemu-nbd and nbdkit: each line on each server in turn, a few times."""

import os
import statistics
import subprocess
import tempfile

import region

SIZE = 1 << 30
SECONDS = 1
ROUNDS = 5
QUICK_ROUNDS = 3
LINES = [
    ("4K randread qd16", "iops", "read", ["--rw=randread", "--bs=4k", "--iodepth=16"]),
    ("4K randwrite qd16", "iops", "write", ["--rw=randwrite", "--bs=4k", "--iodepth=16"]),
    ("4K write + fsync qd1", "iops", "write", ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"]),
    ("1M write qd4", "MiB/s", "write", ["--rw=write", "--bs=1m", "--iodepth=4"]),
]


class Peer:
    """A server of somebody else's on a file of its own."""

    def __init__(self, directory, name, command):
        image, self.path = os.path.join(directory, name + ".raw"), os.path.join(directory, name + ".sock")
        fill(image)
        self.process = subprocess.Popen([*command(self.path, image)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        region.wait_socket(self.path)

    def uri(self):
        return f"nbd+unix:///?socket={self.path}"

    def stop(self):
        self.process.kill()
        self.process.wait()


def qemu_nbd(path, image):
    return ["qemu-nbd", "-t", "-k", path, "-f", "raw", "--cache=writeback", "-e", "16", image]


def nbdkit(path, image):
    return ["nbdkit", "-f", "-U", path, "file", image]


def fill(image):
    """Every server starts with an allocated file in the page cache."""
    piece = os.urandom(1 << 20)
    with open(image, "wb") as file:
        for _ in range(SIZE >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def one(uri, unit, direction, options, seconds):
    figures = region.fio(uri, *options, f"--size={SIZE}", seconds=seconds)[direction]
    return figures["iops"] if unit == "iops" else figures["bw_bytes"] / (1 << 20)


def run(binary, quick=False):
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as directory:
        with region.Pair(binary, SIZE, replicate=False) as pair:
            region.fio(pair.paris.uri(), "--rw=write", "--bs=1m", "--iodepth=4", f"--size={SIZE}", "--end_fsync=1")
            peers = []
            try:
                peers.append(Peer(directory, "qemu_nbd", qemu_nbd))
                peers.append(Peer(directory, "nbdkit", nbdkit))
                uris = {"farshore": pair.paris.uri(), "qemu_nbd": peers[0].uri(), "nbdkit": peers[1].uri()}
                rows = [line(uris, *spec, rounds) for spec in LINES]
            finally:
                for peer in peers:
                    peer.stop()
    return {"nbd": rows}


def line(uris, name, unit, direction, options, rounds):
    """The median of a few short rounds, in each of which the servers take turns: what else the machine does hits all."""
    seen = {server: [] for server in uris}
    for number in range(rounds):
        for server in list(uris) if number % 2 == 0 else reversed(uris):
            seen[server].append(one(uris[server], unit, direction, options, SECONDS))
    figures = {server: statistics.median(rounds) for server, rounds in seen.items()}
    return {"line": name, "unit": unit, **figures, "ratio_qemu_nbd": figures["farshore"] / figures["qemu_nbd"],
            "ratio_nbdkit": figures["farshore"] / figures["nbdkit"]}


def table(result):
    lines = [f"{'unreplicated':<22} {'unit':>6} {'farshore':>10} {'qemu-nbd':>10} {'ratio':>7} {'nbdkit':>10} {'ratio':>7}"]
    for row in result["nbd"]:
        lines.append(f"{row['line']:<22} {row['unit']:>6} {row['farshore']:>10,.0f} {row['qemu_nbd']:>10,.0f} "
                     f"{row['ratio_qemu_nbd']:>7.2f} {row['nbdkit']:>10,.0f} {row['ratio_nbdkit']:>7.2f}")
    return "\n".join(lines)
