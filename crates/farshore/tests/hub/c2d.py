"""Messages to devices by the official service SDK: AMQP with SASL, on port 5671 of the hub's host.

The environment variable RIG says in JSON where the hub is: `service` (a connection string with the right to connect as a
service), `device` (is registered), `idle` (is registered and never connects) and `nobody` (is not registered). SSL_CERT_FILE
names the authority. Every check prints one line of JSON; one that failed makes the program fail.
"""

import faulthandler
import json
import os
import sys
import time
import traceback

from azure.iot.hub import IoTHubRegistryManager

GIVEN = json.loads(os.environ["RIG"])
faulthandler.dump_traceback_later(90, exit=True)  # Only a hang takes as long: then it is said where.
QUEUE = 50  # Messages that may wait for one device.
_failed = []


def check(name, body):
    try:
        line = {"name": name, "ok": True, "detail": body() or ""}
    except Exception:  # Whatever went wrong is this check's result.
        _failed.append(name)
        line = {"name": name, "ok": False, "detail": traceback.format_exc()}
    print(json.dumps(line), flush=True)


def service(connection=GIVEN["service"]):
    return IoTHubRegistryManager.from_connection_string(connection)


def refusal(manager, device, body, **properties):
    """What the SDK says of a message; it has one word for every refusal."""
    try:
        manager.send_c2d_message(device, body, properties)
    except Exception as error:
        return str(error)
    return None


def every_property():
    expires = int((time.time() + 600) * 1000)
    properties = {"contentType": "application/json", "contentEncoding": "utf-8", "messageId": "m-1", "correlationId": "c-1"}
    properties |= {"expiryTimeUtc": expires, "iothub-ack": "full", "colour": "blue é/+"}
    assert refusal(service(), GIVEN["device"], '{"open":true}', **properties) is None


def unknown_device():
    assert refusal(service(), GIVEN["nobody"], "x") == "C2D message send failure"


def a_whole_queue():
    manager = service()
    sent = [refusal(manager, GIVEN["idle"], str(n)) for n in range(QUEUE + 1)]
    assert sent[-1] == "C2D message send failure", sent
    return {"accepted": sent.count(None)}


def wrong_key():
    key = GIVEN["service"].index("SharedAccessKey=")
    manager = service(GIVEN["service"][:key] + "SharedAccessKey=AAAA")
    assert refusal(manager, GIVEN["device"], "x") is not None


check("a message with every property is accepted", every_property)
check("an unknown device is refused", unknown_device)
check("a full queue refuses", a_whole_queue)
check("a wrong key opens nothing", wrong_key)
sys.stdout.flush()
os._exit(1 if _failed else 0)  # The SDK's threads would hold the program back.
