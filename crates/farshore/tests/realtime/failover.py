"""An application on a pair of regions: clients of the official SDK that receive, and a publisher that never stops.

The same as `failover.js`, in its words and with its output.
"""

import threading
import time

from azure.core.exceptions import AzureError
from azure.messaging.webpubsubclient import WebPubSubClient, WebPubSubClientCredential
from azure.messaging.webpubsubclient.models import CallbackType
from rig import GIVEN, check, equal, main, order, say, service, until

GROUP = "room"
PACE_S = 0.01  # Between two messages.
OWED_S = 60  # What a client is owed comes within this.


class Receiver:
    """A client that remembers when it got which number."""

    def __init__(self, index, connection):
        self.index, self.lock = index, threading.Lock()
        self.numbers, self.doubled, self.connections = set(), [], []
        self.last, self.silence = None, 0.0
        hub = service(connection)
        url = lambda: hub.get_client_access_token(user_id=f"user-{index}", groups=[GROUP])["url"]
        # A connection that stands before the SDK has begun to wait for it is seen only at the end of its patience.
        self.client = WebPubSubClient(WebPubSubClientCredential(url), start_timeout=1, reconnect_retry_total=1000)
        self.client.subscribe(CallbackType.CONNECTED, lambda event: self.connections.append(event.connection_id))
        self.client.subscribe(CallbackType.GROUP_MESSAGE, self.receive)
        self.client.subscribe(CallbackType.SERVER_MESSAGE, self.receive)
        self.client.open()
        until("connected", lambda: self.connections)

    def receive(self, message):
        now, n = time.monotonic(), message.data["n"]
        with self.lock:
            if n in self.numbers:
                self.doubled.append(n)
            self.numbers.add(n)
            self.silence = max(self.silence, now - (self.last or now))
            self.last = now


class Publisher:
    """Publishes numbers until told to stop; a number is acknowledged or never sent again."""

    def __init__(self):
        self.acknowledged, self.refused, self.why, self.stop = [], 0, "", False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        # One attempt each: whether a message came twice must be the service's doing.
        hub = service(GIVEN["publish"], retry_total=0, connection_timeout=5, read_timeout=5)
        n = 0
        while not self.stop:
            try:
                hub.send_to_group(GROUP, {"n": n})
                self.acknowledged.append(n)
                say({"acknowledged": len(self.acknowledged)})
            except AzureError as error:
                self.refused, self.why = self.refused + 1, str(error)[:200]
            n += 1
            time.sleep(PACE_S)


@main
def program():
    wanted = GIVEN["connections"] * GIVEN.get("each", 1)
    clients = [Receiver(index, connection) for index, connection in enumerate(wanted)]
    publisher = Publisher()
    order()
    publisher.stop = True
    publisher.thread.join()
    owed, end = set(publisher.acknowledged), time.monotonic() + OWED_S
    while any(owed - one.numbers for one in clients) and time.monotonic() < end:
        time.sleep(0.05)

    def nothing_lost():
        for one in clients:
            equal((one.index, sorted(owed - one.numbers)[:20]), (one.index, []))
        return f"{len(owed)} acknowledged, {publisher.refused} refused ({publisher.why})"

    def nothing_twice():
        for one in clients:
            equal((one.index, one.doubled[:20]), (one.index, []))

    check("nothing that was acknowledged is lost", nothing_lost)
    check("nothing came twice", nothing_twice)
    say({
        "clients": len(clients),
        "acknowledged": len(owed),
        "refused": publisher.refused,
        "longest_silence_ms": round(1000 * max(one.silence for one in clients)),
        "began_anew": sum(len(one.connections) > 1 for one in clients),
    })
