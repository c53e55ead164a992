"""Devices ask where they belong, by the official provisioning client: MQTT over TLS 1.2, on port 8883 of the host.

The environment variable RIG says in JSON: `host`, `scope`, `ca` (a file), `hub` (which is to be told), `devices` (each with `id`
and `key`, or `cert` and `certkey`, which are files; with `speaks` it connects to its hub and says something) and `liar` (one whose
key is wrong; null: there is none). Every check prints one line of JSON;
one that failed makes the program fail.
"""

import faulthandler
import json
import os
import sys
import traceback

from azure.iot.device import X509, IoTHubDeviceClient, Message, ProvisioningDeviceClient

GIVEN = json.loads(os.environ["RIG"])
faulthandler.dump_traceback_later(90, exit=True)  # Only a hang takes as long: then it is said where.
_failed = []


def check(name, body):
    try:
        line = {"name": name, "ok": True, "detail": body() or ""}
    except Exception:  # Whatever went wrong is this check's result.
        _failed.append(name)
        line = {"name": name, "ok": False, "detail": traceback.format_exc()}
    print(json.dumps(line), flush=True)


def client(device):
    where = {"provisioning_host": GIVEN["host"], "registration_id": device["id"], "id_scope": GIVEN["scope"]}
    with open(GIVEN["ca"]) as file:
        where["server_verification_cert"] = file.read()
    if "key" in device:
        return ProvisioningDeviceClient.create_from_symmetric_key(symmetric_key=device["key"], **where)
    return ProvisioningDeviceClient.create_from_x509_certificate(x509=X509(device["cert"], device["certkey"]), **where)


def told(device):
    one = client(device)
    one.provisioning_payload = {"model": "x"}
    result = one.register()
    state = result.registration_state
    assert (result.status, state.assigned_hub, state.device_id) == ("assigned", GIVEN["hub"], device["id"]), str(result)
    if device.get("speaks"):
        speak(device, state.assigned_hub)
    return str(result)


def speak(device, hub):
    with open(GIVEN["ca"]) as file:
        where = {"hostname": hub, "device_id": device["id"], "server_verification_cert": file.read()}
    if "key" in device:
        one = IoTHubDeviceClient.create_from_symmetric_key(symmetric_key=device["key"], **where)
    else:
        one = IoTHubDeviceClient.create_from_x509_certificate(x509=X509(device["cert"], device["certkey"]), **where)
    one.connect()
    one.send_message(Message("{}", message_id=f"{device['id']}-{os.getpid()}"))
    one.shutdown()



def refused():
    try:
        result = client(GIVEN["liar"]).register()
    except Exception as error:
        return type(error).__name__
    raise AssertionError(f"registered: {result}")


for one in GIVEN["devices"]:
    check(f"{one['id']} is told the active hub", lambda one=one: told(one))
if GIVEN["liar"]:
    check("a wrong key is told nothing", refused)
sys.stdout.flush()
os._exit(1 if _failed else 0)  # The SDK's threads would hold the program back.
