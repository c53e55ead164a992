"""Every operation of the official service SDK, seen from sockets that are connected meanwhile."""

import itertools
import urllib.request

from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest
from rig import GIVEN, Socket, check, endpoint, equal, main, service

PROTOCOL = "json.webpubsub.azure.v1"
hub = service()
marks = itertools.count(1)


def connect(protocol=PROTOCOL, by=hub, **options):
    return Socket(by.get_client_access_token(**options)["url"], protocol)


def data(frame):
    """What a socket got of a message, as the application sees it."""
    return frame["data"] if isinstance(frame, dict) and frame.get("type") == "message" else frame


def delivered(people, act):
    """What each of the people got because of `act`: all that came before a mark that is sent to all afterwards."""
    act()
    mark = f"mark {next(marks)}"
    hub.send_to_all(mark, content_type="text/plain")
    return {name: [data(f) for f in one.up_to(lambda f: data(f) == mark)][:-1] for name, one in people.items()}


def id_of(socket):
    return socket.connected["connectionId"]


def asked(operation, **request):
    """An operation that this SDK has no word for, by its own way for such: the answer's JSON, if there is any."""
    request.setdefault("params", {})["api-version"] = "2024-12-01"
    answer = hub.send_request(HttpRequest("POST", f"{{endpoint}}/api/hubs/{GIVEN['hub']}/{operation}", **request))
    answer.raise_for_status()
    return answer.json() if answer.content else None


def fails(status, act):
    try:
        act()
    except HttpResponseError as error:
        equal(error.status_code, status)
        return error
    raise AssertionError(f"expected {status}")


def health():
    for method in ("GET", "HEAD"):
        request = urllib.request.Request(f"{endpoint(GIVEN['connection'])}/api/health", method=method)
        equal(urllib.request.urlopen(request).status, 200)


def sending(people):
    ann, simple = people["ann"], connect(protocol=None, user_id="sam")
    everybody = {**people, "simple": simple}

    def json():
        got = delivered(everybody, lambda: hub.send_to_all({"a": [1, None, "x"]}))
        equal(got["ann"], [{"a": [1, None, "x"]}])
        equal(got["bob"], got["ann"])
        equal(len(got["simple"]), 1)

    def text():
        got = delivered(everybody, lambda: hub.send_to_all("grüße".encode(), content_type="text/plain"))
        equal([got["ann"], got["simple"]], [["grüße"], ["grüße"]])

    def binary():
        got = delivered(everybody, lambda: hub.send_to_all(b"\0\1\xff", content_type="application/octet-stream"))
        equal([got["ann"], got["simple"]], [["AAH/"], [b"\0\1\xff"]])

    def chosen():
        got = delivered(people, lambda: hub.send_to_all("x", excluded=[id_of(ann)]))
        equal(got, {"ann": [], "bob": ["x"]})
        got = delivered(people, lambda: hub.send_to_all("x", filter="userId eq 'ann'"))
        equal(got, {"ann": ["x"], "bob": []})

    def refused():
        error = fails(400, lambda: hub.send_to_all("x", filter="invalid filter"))
        assert "Syntax error at position 14 in 'invalid filter'" in str(error), error
        # The SDK has no word for it in this call, so it goes as a parameter.
        hub.send_to_all("x", params={"messageTtlSeconds": 300})
        fails(400, lambda: hub.send_to_all("x", params={"messageTtlSeconds": 301}))

    def to_user():
        delivered(people, lambda: None)
        equal(delivered(people, lambda: hub.send_to_user("ann", {"n": 1})), {"ann": [{"n": 1}], "bob": []})
        equal(delivered(people, lambda: hub.send_to_user("ann", "t", content_type="text/plain")), {"ann": ["t"], "bob": []})
        hub.send_to_user("nobody", "x")

    def to_connection():
        got = delivered(people, lambda: hub.send_to_connection(id_of(ann), "c", content_type="text/plain"))
        equal(got, {"ann": ["c"], "bob": []})
        hub.send_to_connection("unknown", "x")

    check("send_to_all json", json)
    check("send_to_all text", text)
    check("send_to_all binary", binary)
    check("send_to_all excluded and filter", chosen)
    check("send_to_all a bad filter or time to live", refused)
    check("send_to_user", to_user)
    check("send_to_connection", to_connection)
    simple.ws.close()


def groups(people):
    ann = people["ann"]

    def one_group():
        equal(hub.group_exists("room"), False)
        hub.add_connection_to_group("room", id_of(ann))
        equal(hub.group_exists("room"), True)
        equal(delivered(people, lambda: hub.send_to_group("room", {"n": 1})), {"ann": [{"n": 1}], "bob": []})
        hub.add_user_to_group("room", "bob")
        got = delivered(people, lambda: hub.send_to_group("room", "t", content_type="text/plain", excluded=[id_of(ann)]))
        equal(got, {"ann": [], "bob": ["t"]})
        got = delivered(people, lambda: hub.send_to_group("room", "f", filter="userId eq 'ann'"))
        equal(got, {"ann": ["f"], "bob": []})
        hub.remove_connection_from_group("room", id_of(ann))
        hub.remove_user_from_group("room", "bob")
        equal(hub.group_exists("room"), False)

    def unknown():
        fails(404, lambda: hub.add_connection_to_group("room", "unknown"))
        fails(404, lambda: hub.add_user_to_group("room", "nobody"))
        hub.remove_connection_from_group("room", "unknown")
        hub.remove_user_from_group("room", "nobody")
        hub.remove_connection_from_all_groups("unknown")
        hub.remove_user_from_all_groups("nobody")

    def many():
        asked(":addToGroups", json={"groups": ["one", "two"], "filter": "startswith(userId, 'a')"})
        equal(delivered(people, lambda: hub.send_to_group("two", "2")), {"ann": ["2"], "bob": []})
        asked(":removeFromGroups", json={"groups": ["one"], "filter": "userId eq 'ann'"})
        equal([hub.group_exists("one"), hub.group_exists("two")], [False, True])
        hub.remove_connection_from_all_groups(id_of(ann))
        equal(hub.group_exists("two"), False)
        hub.add_user_to_group("one", "bob")
        hub.remove_user_from_all_groups("bob")
        equal(hub.group_exists("one"), False)

    def odd_names():
        odd = connect(user_id="us er/1?ä%")
        equal(hub.user_exists("us er/1?ä%"), True)
        hub.add_user_to_group("gr oup/#ü&", "us er/1?ä%")
        got = delivered({"odd": odd, **people}, lambda: hub.send_to_group("gr oup/#ü&", "odd"))
        equal(got, {"odd": ["odd"], "ann": [], "bob": []})
        odd.ws.close()

    check("group add, exists, send, remove", one_group)
    check("group of whom nobody knows", unknown)
    check("groups by filter", many)
    check("names of any characters", odd_names)


def paging():
    crowd = [connect(user_id=f"u{n}", groups=["crowd"]) for n in range(6)]
    for options, sizes in (
        ({"top": 6}, [6]),
        ({"top": 3}, [3]),
        ({"maxpagesize": 2}, [2, 2, 2]),
        ({"top": 5, "maxpagesize": 2}, [2, 2, 1]),
    ):

        def pages(options=options, sizes=sizes):
            got = [list(page) for page in hub.list_connections(group="crowd", **options).by_page()]
            equal([len(page) for page in got], sizes)
            ids = [member.connection_id for page in got for member in page]
            equal(len(set(ids)), len(ids))

        check(f"list_connections {options}", pages)

    def members():
        got = {member.user_id: member.connection_id for member in hub.list_connections(group="crowd")}
        equal(got, {one.connected["userId"]: id_of(one) for one in crowd})

    check("list_connections names connections and users", members)
    for one in crowd:
        one.ws.close()


def permissions(people):
    ann = people["ann"]
    acks = itertools.count(100)

    def join(group):
        ann.send({"type": "joinGroup", "group": group, "ackId": next(acks)})
        return ann.next(lambda frame: frame.get("type") == "ack")

    def one_group():
        equal(join("g")["error"]["name"], "Forbidden")
        equal(hub.has_permission("joinLeaveGroup", id_of(ann), target_name="g"), False)
        hub.grant_permission("joinLeaveGroup", id_of(ann), target_name="g")
        equal(hub.has_permission("joinLeaveGroup", id_of(ann), target_name="g"), True)
        equal(join("g")["success"], True)
        equal(join("h")["error"]["name"], "Forbidden")
        hub.revoke_permission("joinLeaveGroup", id_of(ann), target_name="g")
        equal(hub.has_permission("joinLeaveGroup", id_of(ann), target_name="g"), False)

    def unknown():
        fails(404, lambda: hub.grant_permission("sendToGroup", "unknown"))
        hub.revoke_permission("sendToGroup", "unknown")
        equal(hub.has_permission("sendToGroup", "unknown"), False)

    check("permission for one group", one_group)
    check("permission of whom nobody knows", unknown)


def tokens():
    def roles_and_groups():
        zoe = connect(user_id="zoe", roles=["webpubsub.sendToGroup"], groups=["g1", "g2"])
        zoe.send({"type": "sendToGroup", "group": "g2", "dataType": "text", "data": "echo", "ackId": 1})
        echo = zoe.next(lambda frame: frame.get("type") == "message")
        equal([echo["from"], echo["group"], echo["fromUserId"], echo["data"]], ["group", "g2", "zoe", "echo"])
        zoe.ws.close()

    def made_by_the_service():
        token = asked(":generateToken", params={"userId": "eve", "role": ["webpubsub.sendToGroup"], "group": ["made"]})["token"]
        url = hub.get_client_access_token()["baseUrl"]
        eve = Socket(f"{url}?access_token={token}", PROTOCOL)
        equal([eve.connected["userId"], hub.group_exists("made")], ["eve", True])
        eve.ws.close()

    def secondary():
        second = service(GIVEN["secondary"])
        connect(by=second, user_id="sec").ws.close()
        second.send_to_all("by the second key")

    def forged():
        wrong = service(f"Endpoint={endpoint(GIVEN['connection'])};AccessKey=Zm9yZ2VkIGZvcmdlZCBmb3JnZWQgZm9yZ2VkIQ==;")
        fails(401, lambda: wrong.send_to_all("x"))

    def proxied():
        proxy = endpoint(GIVEN["connection"])
        named = GIVEN["connection"].replace(proxy, GIVEN["audience"])
        service(named, reverse_proxy_endpoint=proxy).send_to_all("through a proxy")

    check("a token with roles and groups", roles_and_groups)
    check("a token that the service makes", made_by_the_service)
    check("the secondary key", secondary)
    check("a forged key", forged)
    check("behind a proxy of another name", proxied)


def closing(people):
    def exists():
        equal([hub.connection_exists(id_of(people["ann"])), hub.connection_exists("unknown")], [True, False])
        equal([hub.user_exists("ann"), hub.user_exists("nobody")], [True, False])

    def told(one, reason):
        equal(one.next(lambda frame: frame.get("event") == "disconnected")["message"], reason)
        equal(one.next(lambda frame: "closed" in frame)["closed"], 1000)

    def connection():
        one = connect()
        hub.close_connection(id_of(one), reason="enough & more")
        told(one, "enough & more")
        hub.close_connection("unknown")

    def user():
        both = [connect(user_id="two"), connect(user_id="two")]
        hub.close_user_connections("two", reason="user", excluded=[id_of(both[0])])
        told(both[1], "user")
        equal(hub.connection_exists(id_of(both[0])), True)
        both[0].ws.close()

    def group():
        both = [connect(groups=["closing"]), connect(groups=["closing"])]
        hub.close_group_connections("closing", reason="group", excluded=[id_of(both[0])])
        told(both[1], "group")
        equal(hub.connection_exists(id_of(both[0])), True)

    def everybody():
        hub.close_all_connections(reason="all", excluded=[id_of(people["ann"])])
        told(people["bob"], "all")
        equal(hub.connection_exists(id_of(people["ann"])), True)

    check("exists", exists)
    check("close_connection", connection)
    check("close_user_connections", user)
    check("close_group_connections", group)
    check("close_all_connections", everybody)


@main
def program():
    check("health", health)
    people = {"ann": connect(user_id="ann"), "bob": connect(user_id="bob")}
    sending(people)
    groups(people)
    paging()
    permissions(people)
    tokens()
    closing(people)
