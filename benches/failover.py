"""First NBD read after a failover: by size of the disk and by length of the journal.

The peer is what an operator would do by hand with QEMU's tools: a qcow2 overlay on the replica and qemu-nbd on top.
"""

import os
import subprocess
import time

import region

GIB = 1 << 30
SIZES = [1, 4, 16, 64]
RECORDS = [1_000, 10_000, 100_000, 1_000_000]
QUICK_RECORDS = [1_000, 10_000, 100_000]


def one(binary, size, records):
    """Seconds from the order to the first block read, and the target's memory."""
    with region.Pair(binary, size) as pair:
        region.fio(pair.paris.uri(), "--rw=randwrite", "--bs=4k", "--iodepth=16", f"--size={size}",
                   f"--number_ios={records}", "--norandommap=1", "--randseed=7")
        seen = pair.settle()
        if seen["watermark"]["seq"] < records:
            raise RuntimeError(f"{records} records were wanted, the journal ends at {seen['watermark']}")
        pair.paris.kill()
        began = time.monotonic()
        pair.oslo.act(2, "promote", point={"choose": "latest"})
        region.first_read(pair.oslo.addresses["nbd"], "web-1/root")
        seconds = time.monotonic() - began
        return {"gib": size // GIB, "records": records, "seconds": seconds, "memory_mib": pair.oslo.memory_mib()}


def peer(size, directory):
    base, overlay = os.path.join(directory, "base.raw"), os.path.join(directory, "overlay.qcow2")
    with open(base, "wb") as file:
        file.truncate(size)
    path = os.path.join(directory, "peer.sock")
    began = time.monotonic()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay], check=True)
    server = subprocess.Popen(["qemu-nbd", "-t", "-k", path, "-f", "qcow2", overlay], stderr=subprocess.DEVNULL)
    try:
        region.wait_socket(path)
        subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", f"nbd+unix:///?socket={path}"],
                       check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began
    finally:
        server.kill()
        server.wait()


def run(binary, quick=False):
    import tempfile
    rows = []
    for size in SIZES:
        row = one(binary, size * GIB, 1_000)
        with tempfile.TemporaryDirectory() as directory:
            row["peer_seconds"] = peer(size * GIB, directory)
        row["ratio"] = row["seconds"] / row["peer_seconds"]
        rows.append(row)
    for records in QUICK_RECORDS if quick else RECORDS:
        rows.append(one(binary, 64 * GIB, records))
    return {"failover": rows}


def table(result):
    lines = [f"{'disk':>8} {'records':>10} {'first read':>12} {'overlay by hand':>16} {'ratio':>7} {'memory':>10}"]
    for row in result["failover"]:
        peer_text = f"{row['peer_seconds']:.3f} s" if "peer_seconds" in row else "-"
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
        lines.append(f"{row['gib']:>4} GiB {row['records']:>10,} {row['seconds']:>10.3f} s {peer_text:>16} {ratio:>7} "
                     f"{row['memory_mib']:>6.0f} MiB")
    return "\n".join(lines)
