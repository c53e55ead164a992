'use strict';
// Devices ask where they belong, by the official provisioning client: MQTT over TLS, on port 8883 unless `host` names another.
//
// The environment variable RIG says in JSON: `host`, `scope`, `hub` (which is to be told), `devices` (each with `id` and `key`,
// or `cert` and `certkey`, which are files; with `speaks` it connects to its hub and says something) and `liar` (one whose key is
// wrong; null: there is none). NODE_EXTRA_CA_CERTS names the authority. Every
// check prints one line of JSON; one that failed makes the program fail.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const { Client, Message } = require('azure-iot-device');
const { Mqtt: HubMqtt } = require('azure-iot-device-mqtt');
const { Mqtt } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');

const given = JSON.parse(process.env.RIG);
/** Nothing here takes as long: only a hang does. */
const PATIENCE_MS = 60_000;
let failed = 0;

const say = (line) => console.log(JSON.stringify(line));

async function check(name, body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  try {
    say({ name, ok: true, detail: (await Promise.race([body(), late])) ?? '' });
  } catch (error) {
    failed += 1;
    say({ name, ok: false, detail: `${error.stack ?? error}` });
  } finally {
    clearTimeout(timer);
  }
}

function client({ id, key, cert, certkey }) {
  const security = key
    ? new SymmetricKeySecurityClient(id, key)
    : new X509Security(id, { cert: fs.readFileSync(cert, 'utf8'), key: fs.readFileSync(certkey, 'utf8') });
  const one = ProvisioningDeviceClient.create(given.host, given.scope, new Mqtt(), security);
  one.setProvisioningPayload({ model: 'x' });
  return one;
}

async function told(device) {
  const state = await client(device).register();
  assert.deepEqual([state.status, state.assignedHub, state.deviceId], ['assigned', given.hub, device.id]);
  if (device.speaks) await speak(device, state.assignedHub);
  return state;
}

async function speak({ id, key, cert, certkey }, hub) {
  const proof = key ? `SharedAccessKey=${key}` : 'x509=true';
  const one = Client.fromConnectionString(`HostName=${hub};DeviceId=${id};${proof}`, HubMqtt);
  if (!key) await one.setOptions({ cert: fs.readFileSync(cert, 'utf8'), key: fs.readFileSync(certkey, 'utf8') });
  await one.open();
  await one.sendEvent(new Message('{}'));
  await one.close();
}

async function main() {
  for (const device of given.devices) {
    await check(`${device.id} is told the active hub`, () => told(device));
  }
  if (!given.liar) return;
  await check('a wrong key is told nothing', async () => {
    const error = await client(given.liar).register().then(() => undefined, (it) => it);
    assert.ok(error, 'registered');
    return error.name;
  });
}

process.on('unhandledRejection', (error) => check('nothing fails unseen', () => Promise.reject(error)));
main()
  .catch((error) => check('the program runs', () => Promise.reject(error)))
  .then(() => process.exit(failed === 0 ? 0 : 1));
