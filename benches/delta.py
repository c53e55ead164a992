"""Reprotect after a failover: seconds and bytes for one per cent changed, after a clean stop and after SIGKILL.

The peer is rsync --inplace between the same two images, which has to read both whole.
"""

import os
import shutil
import subprocess
import time

import region

GIB = 1 << 30
SHAPES = [("64 KiB blocks", 64 * 1024), ("scattered 4 KiB", 4 * 1024)]


def change(uri, size, block, count):
    region.fio(uri, "--rw=randwrite", f"--bs={block}", "--iodepth=16", f"--size={size}", f"--number_ios={count}",
               "--randseed=11", "--refill_buffers=1", "--end_fsync=1")


def one(binary, size, name, block, crash):
    count = size // 100 // block
    with region.Pair(binary, size) as pair:
        region.fio(pair.paris.uri(), "--rw=write", "--bs=1m", "--iodepth=4", f"--size={size}", "--end_fsync=1")
        pair.paris.wait("streaming", region.streaming)
        pair.settle()
        if crash:
            pair.paris.kill()
        else:
            pair.paris.stop()
        pair.oslo.act(2, "promote", point={"choose": "latest"})
        after = pair.oslo.observe()["promotion"]["point"]["watermark"]
        pair.oslo.act(2, "commit")
        pair.oslo.wait("the commit folded", lambda seen: seen["folding_bytes"] == 0)
        old = os.path.join(pair.directory, "paris/machines/web-1/disks/root.raw")
        change(pair.oslo.uri(), size, block, count)
        seconds_peer, bytes_peer = peer(pair, old)
        pair.paris.start()
        began = time.monotonic()
        pair.paris.act(2, "fence", lost_after=after)
        pair.paris.act(2, "follow", source="oslo", diverged_after=after)
        pair.oslo.act(2, "replicate", target="paris", address=pair.paris.addresses["replication"], mode="async")
        link = pair.oslo.wait("streaming", region.streaming)["replication"]
        seconds = time.monotonic() - began
        return {"changed": name, "stop": "SIGKILL" if crash else "clean", "bytes_changed": count * block,
                "bytes_differed": link["differed_bytes"], "bytes_moved": link["moved_bytes"], "seconds": seconds,
                "overhead": link["moved_bytes"] / (count * block), "peer_seconds": seconds_peer,
                "peer_bytes": bytes_peer, "ratio_seconds": seconds / seconds_peer,
                "ratio_bytes": link["moved_bytes"] / bytes_peer}


def peer(pair, old):
    """rsync of the active disk onto a copy of the old one."""
    copy = os.path.join(pair.directory, "peer.raw")
    shutil.copyfile(old, copy)
    new = os.path.join(pair.directory, "oslo/machines/web-1/disks/root.raw")
    began = time.monotonic()
    done = subprocess.run(["rsync", "--inplace", "--no-whole-file", "--ignore-times", "--stats", new, copy],
                          check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    sent = sum(int(line.split(":")[1].replace(",", "")) for line in done.stdout.splitlines()
               if line.startswith(("Total bytes sent", "Total bytes received")))
    os.remove(copy)
    return seconds, sent


def run(binary, quick=False):
    size = GIB if quick else 4 * GIB
    rows = [one(binary, size, name, block, crash) for name, block in SHAPES for crash in (False, True)]
    return {"delta": rows}


def table(result):
    mib = 1 << 20
    lines = [f"{'1 % changed as':<16} {'stop':<8} {'changed':>9} {'moved':>9} {'x':>6} {'seconds':>8} "
             f"{'rsync':>9} {'moved':>9} {'s ratio':>8}"]
    for row in result["delta"]:
        lines.append(f"{row['changed']:<16} {row['stop']:<8} {row['bytes_changed'] / mib:>5.1f} MiB "
                     f"{row['bytes_moved'] / mib:>5.1f} MiB {row['overhead']:>6.3f} {row['seconds']:>8.2f} "
                     f"{row['peer_seconds']:>7.2f} s {row['peer_bytes'] / mib:>5.1f} MiB {row['ratio_seconds']:>8.3f}")
    return "\n".join(lines)
