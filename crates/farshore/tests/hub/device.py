"""A device by the official Python SDK, told what to do line by line.

The first line on stdin is JSON: `connection` (a device's connection string), `ca` (PEM text), `listen` (any of "messages",
"methods", "desired": what to subscribe to at the start), `keep_alive` in seconds, `websockets` (else TCP), and `x509` where it has a
certificate: the files `cert` and `key`. Each further line is an order:
{"do": "send", "id": any, "body": any, "mid": text, "properties": {}} -> {"event": "sent" or "unsent", "id"}
{"do": "twin", "id"} -> {"event": "twin", "id", "twin"}; {"do": "report", "id", "patch": {}} -> {"event": "reported", "id"}
{"do": "end"}. What failed says {"event": "failed", "id", "why"}. By themselves come "ready", "connected", "disconnected",
"message", "method" and "desired", and "again" for each beginning that failed. A method is answered with status 200 and what it
was called with. What the SDK logs goes to stderr.
"""

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse
from azure.iot.device.exceptions import ConnectionDroppedError, ConnectionFailedError, OperationTimeout

_print = threading.Lock()


def say(event, **more):
    with _print:
        print(json.dumps({"event": event, **more}), flush=True)


def text(data):
    return data.decode(errors="replace") if isinstance(data, bytes) else data


def client(given):
    kind = IoTHubModuleClient if "ModuleId=" in given["connection"] else IoTHubDeviceClient
    options = {"server_verification_cert": given["ca"], "keep_alive": given.get("keep_alive", 60)}
    options["websockets"] = given.get("websockets", False)
    if "x509" in given:
        named = dict(part.split("=", 1) for part in given["connection"].split(";"))
        x509 = X509(given["x509"]["cert"], given["x509"]["key"])
        return kind.create_from_x509_certificate(x509, named["HostName"], named["DeviceId"], **options)
    return kind.create_from_connection_string(given["connection"], **options)


def begin(act):
    """As applications do: the SDK connects again by itself only when it was connected once, unlike the one for Node."""
    while True:
        try:
            return act()
        except (ConnectionDroppedError, ConnectionFailedError, OperationTimeout) as error:
            say("again", why=repr(error))
            time.sleep(1)


def listen(device, to):
    """Sets the handlers, which subscribes."""

    def method(request):
        say("method", name=request.name, payload=request.payload)
        answer = {"method": request.name, "payload": request.payload}
        device.send_method_response(MethodResponse.create_from_method_request(request, 200, answer))

    if "messages" in to:
        device.on_message_received = lambda message: say(
            "message", body=text(message.data), mid=message.message_id, properties=message.custom_properties
        )
    if "methods" in to:
        device.on_method_request_received = method
    if "desired" in to:
        device.on_twin_desired_properties_patch_received = lambda patch: say("desired", patch=patch)


def send(device, order):
    message = Message(json.dumps(order["body"]), message_id=order.get("mid"))
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.custom_properties.update(order.get("properties") or {})
    try:
        device.send_message(message)
        say("sent", id=order["id"])
    except Exception as error:  # The SDK gives up: the application's message is lost, as it would be for a user.
        say("unsent", id=order["id"], why=repr(error))


def perform(device, order):
    try:
        if order["do"] == "send":
            send(device, order)
        elif order["do"] == "twin":
            say("twin", id=order["id"], twin=device.get_twin())
        elif order["do"] == "report":
            device.patch_twin_reported_properties(order["patch"])
            say("reported", id=order["id"])
        else:
            raise ValueError(f"unknown order {order!r}")
    except Exception as error:
        say("failed", id=order.get("id"), why=repr(error))


def main():
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(threadName)s %(name)s %(message)s")
    given = json.loads(sys.stdin.readline())
    faulthandler.dump_traceback_later(90, exit=True)  # Only a hang takes as long: then it is said where.
    device = client(given)
    device.on_connection_state_change = lambda: say("connected" if device.connected else "disconnected")
    begin(device.connect)
    begin(lambda: listen(device, given.get("listen", [])))
    say("ready")
    faulthandler.cancel_dump_traceback_later()
    with ThreadPoolExecutor(max_workers=16) as workers:
        for line in sys.stdin:
            order = json.loads(line)
            if order["do"] == "end":
                break
            workers.submit(perform, device, order)
    device.shutdown()
    say("ended")
    sys.stdout.flush()
    os._exit(0)  # The SDK's threads would hold the program back.


main()
