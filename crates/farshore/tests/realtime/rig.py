"""What the programs here share: checks that are printed one a line, sockets that remember what came, and a line that can be cut.

The environment variable RIG says in JSON where the hub is: `connection` and `secondary` (connection strings with either key),
`hub`, and what a single program needs besides.
"""

import json
import os
import re
import socket
import sys
import threading
import time
import traceback

import websocket
from azure.messaging.webpubsubservice import WebPubSubServiceClient

GIVEN = json.loads(os.environ["RIG"])
PATIENCE_S = 20  # Nothing here takes as long: only a hang does.
_failed = []
_print = threading.Lock()


def say(line):
    with _print:
        print(json.dumps(line), flush=True)


def check(name, body):
    """Runs one check and prints how it ended."""
    try:
        say({"name": name, "ok": True, "detail": body() or ""})
    except Exception:  # Whatever went wrong is this check's result.
        _failed.append(name)
        say({"name": name, "ok": False, "detail": traceback.format_exc()})


def main(body):
    """Runs the program's checks and ends: what failed is in the exit status."""
    try:
        body()
    except Exception:
        _failed.append("the program")
        say({"name": "the program runs", "ok": False, "detail": traceback.format_exc()})
    sys.stdout.flush()
    os._exit(1 if _failed else 0)  # The SDK's threads would hold the program back.


def equal(got, expected):
    assert got == expected, f"{got!r} is not {expected!r}"


def until(what, holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"not in {PATIENCE_S} s: {what}"
        time.sleep(0.005)


def service(connection=None, hub=None, **options):
    """A client of the service by connection string."""
    return WebPubSubServiceClient.from_connection_string(connection or GIVEN["connection"], hub or GIVEN["hub"], **options)


def endpoint(connection):
    return re.search("endpoint=(.*?);", connection, re.IGNORECASE).group(1)


class Socket:
    """One plain WebSocket; `protocol` None makes it a simple client."""

    def __init__(self, url, protocol=None):
        self.json = protocol is not None
        self.ws = websocket.create_connection(url, timeout=PATIENCE_S, subprotocols=[protocol] if protocol else None)
        self.connected = self.next(lambda frame: frame.get("event") == "connected") if self.json else None

    def up_to(self, wanted):
        """Frames up to the first that is wanted. A close of the other side is `{"closed": code}`."""
        taken = []
        while not taken or not wanted(taken[-1]):
            opcode, data = self.ws.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                taken.append({"closed": int.from_bytes(data[:2], "big")})
            elif opcode == websocket.ABNF.OPCODE_TEXT:
                taken.append(json.loads(data) if self.json else data.decode())
            else:
                taken.append(data)
        return taken

    def next(self, wanted):
        return self.up_to(wanted)[-1]

    def send(self, frame):
        self.ws.send(json.dumps(frame))


class Relay:
    """A line between a client and its server that can be cut."""

    def __init__(self, url):
        host, port = re.match("[a-z]+://([^:/]+):([0-9]+)", url).groups()
        self.target = (host, int(port))
        self.refuses = False
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def through(self, url):
        return re.sub("//[^/]+", f"//127.0.0.1:{self.listener.getsockname()[1]}", url, count=1)

    def cut(self):
        while self.sockets:
            one = self.sockets.pop()
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It is closed already.

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            if self.refuses:
                near.close()
                continue
            far = socket.create_connection(self.target)
            self.sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def order():
    """Waits for a line of the harness."""
    return sys.stdin.readline()


__all__ = ["GIVEN", "Relay", "Socket", "check", "endpoint", "equal", "main", "order", "say", "service", "until"]
