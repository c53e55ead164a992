'use strict';
// Identities, twins, queries and methods by the official service SDK: REST on port 443 of the hub's host.
//
// The environment variable RIG says in JSON where the hub is: `service` (a connection string with every right), `device` (is
// connected and answers the method `ping`) and `round` (a word for names that nobody used yet). NODE_EXTRA_CA_CERTS names the
// authority. Every check prints one line of JSON; one that failed makes the program fail.
const assert = require('node:assert/strict');
const { Client, JobClient, Registry } = require('azure-iothub');

const given = JSON.parse(process.env.RIG);
const { round } = given;
/** Nothing here takes as long: only a hang does. */
const PATIENCE_MS = 30_000;
/** Between two looks at a job. */
const LOOK_EVERY_MS = 100;
const one = `node-one-${round}`;
const registry = Registry.fromConnectionString(given.service);
let failed = 0;

const say = (line) => console.log(JSON.stringify(line));

async function check(name, body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  try {
    await Promise.race([body(), late]);
    say({ name, ok: true });
  } catch (error) {
    failed += 1;
    say({ name, ok: false, detail: `${error.stack ?? error}` });
  } finally {
    clearTimeout(timer);
  }
}

/** The name of the error with which it is refused. */
const refusal = (call) => call().then(() => 'none', (error) => error.name);

async function lifeOfADevice() {
  const made = (await registry.create({ deviceId: one })).responseBody;
  assert.equal(made.authentication.symmetricKey.primaryKey.length, 44);
  assert.equal(await refusal(() => registry.create({ deviceId: one })), 'DeviceAlreadyExistsError');
  const changed = (await registry.update({ deviceId: one, status: 'disabled', statusReason: 'off' })).responseBody;
  assert.deepEqual([changed.status, changed.statusReason], ['disabled', 'off']);
  assert.equal((await registry.get(one)).responseBody.etag, changed.etag);
  assert.equal(await refusal(() => registry.get('nobody')), 'DeviceNotFoundError');
  assert.ok((await registry.list()).responseBody.length > 0);
}

async function inBulk() {
  const names = Array.from({ length: 20 }, (_, n) => ({ deviceId: `node-bulk-${round}-${n}` }));
  assert.ok((await registry.addDevices(names)).responseBody.isSuccessful);
  const disabled = names.map((name) => ({ ...name, status: 'disabled' }));
  assert.ok((await registry.updateDevices(disabled, true)).responseBody.isSuccessful);
  const stale = [{ ...names[0], status: 'enabled', etag: 'x' }];
  assert.ok(!(await registry.updateDevices(stale, false)).responseBody.isSuccessful);
  assert.ok((await registry.removeDevices(names, true)).responseBody.isSuccessful);
}

async function twins() {
  const twin = (await registry.getTwin(one)).responseBody;
  await twin.update({ tags: { place: round }, properties: { desired: { limit: 7 } } });
  assert.equal((await registry.updateTwin(one, { tags: { only: round } }, '*')).responseBody.tags.only, round);
  assert.equal(await refusal(() => registry.updateTwin(one, { tags: { a: 1 } }, 'zzz')), 'InvalidEtagError');
  assert.equal(await refusal(() => registry.updateTwin(one, { tags: 5 }, '*')), 'ArgumentError');
  assert.equal((await registry.getTwin(one)).responseBody.properties.desired.limit, 7);
}

async function modules() {
  await registry.addModule({ deviceId: one, moduleId: 'm' });
  assert.equal((await registry.getModulesOnDevice(one)).responseBody.length, 1);
  await registry.updateModuleTwin(one, 'm', { properties: { desired: { q: 1 } } }, '*');
  await registry.removeModule(one, 'm');
}

async function queries() {
  const found = await registry.createQuery(`SELECT * FROM devices WHERE tags.only = '${round}'`, 1).nextAsTwin();
  assert.deepEqual(found.result.map((twin) => twin.deviceId).filter((id) => id.startsWith('node-')), [one]);
  const all = registry.createQuery('SELECT deviceId FROM devices', 2);
  let seen = 0;
  do seen += (await all.next(all.continuationToken)).result.length;
  while (all.hasMoreResults);
  assert.ok(seen >= 2);
  assert.equal(await refusal(() => registry.createQuery('SELEKT').next()), 'ArgumentError');
}

async function methods() {
  const client = Client.fromConnectionString(given.service);
  const call = (device) => client.invokeDeviceMethod(device, { methodName: 'ping', payload: { a: 1 } });
  const { result } = await call(given.device);
  assert.deepEqual([result.status, result.payload.payload], [200, { a: 1 }]);
  assert.equal(await refusal(() => call('nobody')), 'DeviceNotFoundError');
}

async function jobs() {
  const client = JobClient.fromConnectionString(given.service);
  const id = `node-job-${round}-${Date.now()}`;
  await client.scheduleTwinUpdate(id, `deviceId = '${one}'`, { etag: '*', tags: { job: id } }, new Date(), 60);
  while ((await client.getJob(id)).jobStatus.status !== 'completed') {
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
  assert.equal((await registry.getTwin(one)).responseBody.tags.job, id);
}

async function main() {
  await check('a device is created, read, changed and listed', lifeOfADevice);
  await check('devices are made, changed and removed in bulk', inBulk);
  await check('twins are changed and guarded by their etag', twins);
  await check('modules have twins of their own', modules);
  await check('queries find devices, page by page', queries);
  await check('a method is answered by its device', methods);
  await check('a job changes twins', jobs);
  await registry.delete(one);
}

process.on('unhandledRejection', (error) => check('nothing fails unseen', () => Promise.reject(error)));
main()
  .catch((error) => check('the program runs', () => Promise.reject(error)))
  .then(() => process.exit(failed === 0 ? 0 : 1));
