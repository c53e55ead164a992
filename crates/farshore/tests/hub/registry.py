"""Identities, twins, queries and methods by the official service SDK: REST on port 443 of the hub's host.

The environment variable RIG says in JSON where the hub is: `service` (a connection string with every right), `device` (is
connected and answers the method `ping`) and `round` (a word for names that nobody used yet). REQUESTS_CA_BUNDLE names the authority.
Every check prints one line of JSON; one that failed makes the program fail.
"""

import faulthandler
import json
import os
import sys
import traceback

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import (
    AuthenticationMechanism,
    CloudToDeviceMethod,
    ExportImportDevice,
    QuerySpecification,
    SymmetricKey,
    Twin,
    TwinProperties,
)

GIVEN = json.loads(os.environ["RIG"])
faulthandler.dump_traceback_later(90, exit=True)  # Only a hang takes as long: then it is said where.
ROUND = GIVEN["round"]
ONE = f"py-one-{ROUND}"
KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="
THUMB = "A" * 40
_failed = []
hub = IoTHubRegistryManager.from_connection_string(GIVEN["service"])


def check(name, body):
    try:
        line = {"name": name, "ok": True, "detail": body() or ""}
    except Exception:  # Whatever went wrong is this check's result.
        _failed.append(name)
        line = {"name": name, "ok": False, "detail": traceback.format_exc()}
    print(json.dumps(line), flush=True)


def refused(status, call):
    try:
        call()
    except Exception as error:
        response = getattr(error, "response", None)
        assert response is not None and response.status_code == status, f"{error!r} instead of {status}"
        return
    raise AssertionError(f"done, instead of {status}")


def life_of_a_device():
    made = hub.create_device_with_sas(ONE, KEY, KEY, "enabled")
    assert made.authentication.symmetric_key.primary_key == KEY
    refused(409, lambda: hub.create_device_with_sas(ONE, KEY, KEY, "enabled"))
    changed = hub.update_device_with_sas(ONE, made.etag, KEY, KEY, "disabled", status_reason="off")
    assert (changed.status, changed.status_reason) == ("disabled", "off") and changed.etag != made.etag
    refused(412, lambda: hub.update_device_with_sas(ONE, made.etag, KEY, KEY, "enabled"))
    refused(412, lambda: hub.delete_device(ONE, made.etag))
    assert hub.get_device(ONE).etag == changed.etag
    refused(404, lambda: hub.get_device("nobody"))


def every_way_to_prove_who_one_is():
    own = hub.create_device_with_x509(f"py-x509-{ROUND}", THUMB, THUMB, "enabled")
    assert own.authentication.type == "selfSigned"
    authority = hub.create_device_with_certificate_authority(f"py-ca-{ROUND}", "enabled")
    assert authority.authentication.type == "certificateAuthority"
    new = hub.create_device_with_sas(f"py-keys-{ROUND}", None, None, "enabled")
    assert len(new.authentication.symmetric_key.primary_key) == 44


def strange_names():
    name = f"odd:a+b%25#?()'@$*!,=_.{ROUND}"
    assert hub.create_device_with_sas(name, KEY, KEY, "enabled").device_id == name
    assert hub.get_device(name).device_id == name
    hub.delete_device(name)
    refused(404, lambda: hub.get_device(name))


def modules():
    made = hub.create_module_with_sas(ONE, "m1", "me", KEY, KEY)
    assert (made.device_id, made.module_id) == (ONE, "m1")
    assert [module.module_id for module in hub.get_modules(ONE)] == ["m1"]
    twin = hub.update_module_twin(ONE, "m1", Twin(properties=TwinProperties(desired={"a": 1})))
    assert twin.properties.desired["a"] == 1
    hub.delete_module(ONE, "m1")
    assert hub.get_modules(ONE) == []


def twins():
    before = hub.get_twin(ONE)
    tags, desired = {"place": ROUND, "n": {"a": 1, "b": 2}}, TwinProperties(desired={"limit": 7})
    after = hub.update_twin(ONE, Twin(tags=tags, properties=desired), before.etag)
    assert after.tags == tags and after.properties.desired["limit"] == 7 and "$metadata" in after.properties.desired
    refused(412, lambda: hub.update_twin(ONE, Twin(tags={"x": 1}), before.etag))
    assert hub.update_twin(ONE, Twin(tags={"n": {"a": None}})).tags == {"place": ROUND, "n": {"b": 2}}
    assert hub.replace_twin(ONE, Twin(tags={"only": ROUND})).tags == {"only": ROUND}
    refused(400, lambda: hub.update_twin(ONE, Twin(tags={"x": "y" * 9000})))


def queries():
    found = hub.query_iot_hub(QuerySpecification(query=f"SELECT * FROM devices WHERE tags.only = '{ROUND}'"))
    assert [twin.device_id for twin in found.items] == [ONE]
    first = hub.query_iot_hub(QuerySpecification(query="SELECT * FROM devices"), None, 2)
    assert len(first.items) == 2 and first.continuation_token
    assert hub.query_iot_hub(QuerySpecification(query="SELECT * FROM devices"), first.continuation_token, 100).items
    refused(400, lambda: hub.query_iot_hub(QuerySpecification(query="SELECT * FROM devices WHERE")))
    assert hub.get_device_registry_statistics().total_device_count > 0


def in_bulk():
    def entry(number, mode):
        keys = AuthenticationMechanism(type="sas", symmetric_key=SymmetricKey(primary_key=KEY, secondary_key=KEY))
        name = f"py-bulk-{ROUND}-{number}"
        return ExportImportDevice(id=name, import_mode=mode, status="enabled", authentication=keys)

    assert hub.bulk_create_or_update_devices([entry(n, "create") for n in range(20)]).is_successful
    again = hub.bulk_create_or_update_devices([entry(0, "create"), entry(20, "create")])
    assert not again.is_successful and again.errors[0].error_code == "DeviceAlreadyExists"
    assert hub.get_device(f"py-bulk-{ROUND}-20").status == "enabled"
    assert hub.bulk_create_or_update_devices([entry(n, "delete") for n in range(21)]).is_successful


def methods():
    def call(device):
        method = CloudToDeviceMethod(method_name="ping", payload={"a": 1}, response_timeout_in_seconds=20)
        return hub.invoke_device_method(device, method)

    answer = call(GIVEN["device"])
    assert (answer.status, answer.payload["payload"]) == (200, {"a": 1}), answer
    refused(404, lambda: call("nobody"))


check("a device is created, read, changed and guarded by its etag", life_of_a_device)
check("devices prove themselves by keys, thumbprints and authorities", every_way_to_prove_who_one_is)
check("any allowed name can be used", strange_names)
check("modules have keys and twins of their own", modules)
check("twins are patched, replaced and guarded by their etag", twins)
check("queries find devices, page by page", queries)
check("devices are made and removed in bulk", in_bulk)
check("a method is answered by its device", methods)
sys.stdout.flush()
os._exit(1 if _failed else 0)
