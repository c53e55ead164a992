"""The official client SDK in both of its subprotocols: groups, acks, events, and recovery when its line is cut."""

from azure.messaging.webpubsubclient import WebPubSubClient, WebPubSubClientCredential
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)
from rig import Relay, check, equal, main, service, until

hub = service()
ROLES = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
TEXT, JSON, BINARY = WebPubSubDataType.TEXT, WebPubSubDataType.JSON, WebPubSubDataType.BINARY
# An answer that comes before the SDK has begun to wait for it is seen only at the end of its patience.
QUICK = {"ack_timeout": 1, "start_timeout": 1}


class Person:
    """An open client that remembers what it was told. The SDK tells in threads of its own: in no certain order."""

    def __init__(self, user, protocol=WebPubSubProtocolType.JSON_RELIABLE, through=lambda url: url, roles=ROLES, **options):
        self.connected, self.disconnected, self.group, self.server = [], [], [], []
        url = lambda: through(hub.get_client_access_token(user_id=user, roles=roles)["url"])
        credential = WebPubSubClientCredential(url)
        self.client = WebPubSubClient(credential, protocol_type=protocol, **QUICK, **options)
        for event, told in (
            (CallbackType.CONNECTED, self.connected),
            (CallbackType.DISCONNECTED, self.disconnected),
            (CallbackType.GROUP_MESSAGE, self.group),
            (CallbackType.SERVER_MESSAGE, self.server),
        ):
            self.client.subscribe(event, told.append)
        self.client.open()
        until("connected", lambda: self.connected)

    def got(self):
        return [message.data for message in self.group]


def plain(name, protocol):
    ann, bob = Person("ann", protocol), Person("bob", protocol)

    def connected():
        equal(ann.connected[0].user_id, "ann")
        equal(hub.connection_exists(ann.connected[0].connection_id), True)

    def kinds():
        ann.client.join_group("g")
        bob.client.join_group("g")
        ann.client.send_to_group("g", "text", TEXT)
        ann.client.send_to_group("g", {"is": ["json", 1]}, JSON)
        ann.client.send_to_group("g", memoryview(b"\0\x80\xff"), BINARY)
        until("three at each", lambda: len(ann.group) == 3 and len(bob.group) == 3)
        got = {str(m.data_type): bytes(m.data) if isinstance(m.data, memoryview) else m.data for m in bob.group}
        equal(sorted(map(repr, got.values())), sorted(map(repr, ["text", {"is": ["json", 1]}, b"\0\x80\xff"])))
        equal({(m.group, m.from_user_id) for m in bob.group}, {("g", "ann")})

    def no_echo():
        ann.client.send_to_group("g", "not to me", TEXT, no_echo=True)
        ann.client.send_to_group("g", "to me", TEXT, ack=False)
        until("both at bob", lambda: {"not to me", "to me"} <= {m for m in bob.got() if isinstance(m, str)})
        until("one at ann", lambda: "to me" in ann.got())
        assert "not to me" not in ann.got()

    def same_ack_id():
        for _ in range(2):
            ann.client.send_to_group("g", "once", TEXT, ack_id=5001)
        ann.client.send_to_group("g", "after", TEXT)
        until("what came after", lambda: "after" in bob.got())
        equal(bob.got().count("once"), 1)

    def leave():
        bob.client.leave_group("g")
        ann.client.send_to_group("g", "gone", TEXT)
        hub.send_to_all("mark")
        until("the mark", lambda: bob.server)
        assert "gone" not in bob.got()

    def event():
        ann.client.send_event("hello", {"some": "thing"}, JSON)

    def forbidden():
        eve = Person("eve", protocol, roles=[], message_retry_total=0)
        for act in (lambda: eve.client.join_group("g"), lambda: eve.client.send_to_group("g", "x", TEXT)):
            try:
                act()
            except SendMessageError as error:
                equal(error.error_detail.name, "Forbidden")
            else:
                raise AssertionError("it was permitted")
        eve.client.close()

    def closed():
        hub.close_connection(ann.connected[0].connection_id, reason="move on")
        until("connected again", lambda: len(ann.connected) == 2)
        equal(ann.disconnected[0].message, "move on")
        until("in its group again", lambda: hub.group_exists("g"))

    check(f"{name}: connected", connected)
    check(f"{name}: text, json and binary to a group", kinds)
    check(f"{name}: no echo, and without an ack", no_echo)
    check(f"{name}: the same ack id twice", same_ack_id)
    check(f"{name}: leave", leave)
    check(f"{name}: an event, with nobody to handle it", event)
    check(f"{name}: what is not permitted", forbidden)
    check(f"{name}: closed by the service, it comes back and joins again", closed)
    ann.client.close()
    bob.client.close()


def numbers_are(messages, count):
    equal(sorted(message.data["n"] for message in messages), list(range(count)))


def recovery():
    relay = Relay(hub.get_client_access_token()["url"])
    ann = Person("ann", through=relay.through)

    def cut_while_sent():
        for n in range(300):
            if n % 100 == 50:
                relay.cut()
            hub.send_to_user("ann", {"n": n})
        until("all", lambda: len(ann.server) >= 300)
        numbers_are(ann.server, 300)

    def without_a_line():
        ann.server.clear()
        relay.refuses = True
        relay.cut()
        for n in range(50):
            hub.send_to_user("ann", {"n": n})
        relay.refuses = False
        until("all", lambda: len(ann.server) >= 50)
        numbers_are(ann.server, 50)

    def upstream():
        ann.client.join_group("kept")
        for n in range(40):
            if n % 20 == 10:
                relay.cut()
                # What it sends into the cut line is lost with its ack, which this SDK gives a new id when it tries again.
                until("the line is back", ann.client.is_connected)
            ann.client.send_to_group("kept", {"n": n}, JSON, ack_id=9000 + n)
        until("all echoes", lambda: len({m.data["n"] for m in ann.group}) == 40)

    def unnoticed():
        equal([len(ann.connected), len(ann.disconnected)], [1, 0])

    check("recovery: nothing that the service sent is lost or doubled", cut_while_sent)
    check("recovery: nor what was sent while there was no line", without_a_line)
    check("recovery: groups and permissions are kept", upstream)
    check("recovery: the application does not notice", unnoticed)
    ann.client.close()


@main
def program():
    plain("json", WebPubSubProtocolType.JSON)
    plain("reliable json", WebPubSubProtocolType.JSON_RELIABLE)
    recovery()
