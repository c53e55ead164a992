"""Regions without a control plane, as real processes, and the small things that all benchmarks of machines need."""

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time

ITEM = "machine/web-1"


class Region:
    """One `region` process (an example of crate farshore-machine), driven by JSON lines."""

    def __init__(self, binary, name, directory):
        self.binary, self.name, self.directory = binary, name, directory
        self.orders = 0
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.binary, self.name, self.directory],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addresses = json.loads(self.process.stdout.readline())

    def ask(self, question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def act(self, epoch, do, **arguments):
        self.orders += 1
        token = {"incarnation": 1, "epoch": epoch}
        key = f"bench/{self.name}/{os.getpid()}/{time.monotonic_ns()}/{self.orders}"
        return self.ask({"act": {"key": key, "item": ITEM, "token": token, "action": {"do": do, **arguments}}})

    def observe(self):
        return self.ask({"observe": ITEM})

    def wait(self, what, holds, seconds=600):
        until = time.monotonic() + seconds
        while True:
            seen = self.observe()
            if holds(seen):
                return seen
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: {what} was not seen in {seconds} s: {seen}")
            time.sleep(0.01)

    def uri(self, disk="root"):
        """For clients that speak unix sockets."""
        return f"nbd+unix:///web-1/{disk}?socket={self.addresses['socket']}"

    def memory_mib(self, which="VmHWM"):
        """Resident memory of the process; VmHWM: the most it ever had."""
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(which + ":"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(timeout=120)


class Pair:
    """Two regions in a temporary directory; paris replicates to oslo."""

    def __init__(self, binary, size, replicate=True, mode="async"):
        self.directory = tempfile.mkdtemp(prefix="farshore-bench-")
        self.paris = Region(binary, "paris", os.path.join(self.directory, "paris"))
        self.oslo = Region(binary, "oslo", os.path.join(self.directory, "oslo"))
        self.paris.act(1, "create", spec={"disks": [{"name": "root", "size_bytes": size}]})
        self.mode = mode
        if replicate:
            self.protect()

    def protect(self):
        self.oslo.act(1, "prepare-target", source="paris", shape=self.paris.observe()["shape"])
        self.paris.act(1, "replicate", target="oslo", address=self.oslo.addresses["replication"], mode=self.mode)
        self.paris.wait("streaming", streaming)

    def settle(self):
        """Waits until oslo durably has everything."""
        head = self.paris.observe()["watermark"]["seq"]
        # Streaming: while blocks are brought up to date the target counts records that it cannot offer yet.
        self.paris.wait("nothing left to send", lambda seen: streaming(seen) and not seen["replication"]["lag"]["writes"])
        return self.oslo.wait("everything at the target", lambda seen: seen["watermark"]["seq"] >= head)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for region in (self.paris, self.oslo):
            if region.process.poll() is None:
                region.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def streaming(seen):
    return bool(seen["replication"]) and seen["replication"]["state"] == "streaming"


def first_read(address, export, length=4096):
    """Connects, negotiates and reads like any client; returns the bytes."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as link:
        take = lambda count: _exactly(link, count)
        take(18)
        link.sendall(struct.pack(">I", 3))
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        link.sendall(b"IHAVEOPT" + struct.pack(">II", 7, len(data)) + data)
        while True:
            _, _, kind, size = struct.unpack(">QIII", take(20))
            take(size)
            if kind == 1:
                break
            if kind & 0x8000_0000:
                raise RuntimeError(f"the export {export} was refused: {kind:#x}")
        link.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, length))
        magic, error, _ = struct.unpack(">IIQ", take(16))
        if magic != 0x67446698 or error:
            raise RuntimeError(f"the read failed: magic {magic:#x}, error {error}")
        return take(length)


def _exactly(link, count):
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise RuntimeError("the server closed the connection")
        data += more
    return data


def fio(uri, *options, seconds=None):
    """Runs one fio job over NBD and returns its JSON."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--output-format=json", *options]
    if seconds:
        command += ["--time_based=1", f"--runtime={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed: {done.stderr or done.stdout}")
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]


def wait_socket(path, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
                return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"nobody listens on {path}")


class Qmp:
    """A QEMU monitor on a unix socket."""

    def __init__(self, path):
        wait_socket(path)
        self.link = socket.socket(socket.AF_UNIX)
        self.link.connect(path)
        self.file = self.link.makefile("rw")
        json.loads(self.file.readline())
        self.run("qmp_capabilities")

    def run(self, execute, **arguments):
        self.file.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(f"{execute}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def wait_event(self, name, seconds=600):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ready, _, _ = select.select([self.link], [], [], 1)
            if ready:
                event = json.loads(self.file.readline())
                if event.get("event") == name:
                    return event
        raise RuntimeError(f"no event {name} in {seconds} s")
