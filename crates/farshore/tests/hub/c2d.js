'use strict';
// Messages to devices by the official service SDK: AMQP without SASL, on port 5671 of the hub's host.
//
// The environment variable RIG says in JSON where the hub is: `service` (a connection string with the right to connect as a
// service), `device` (completes what it is sent), `idle` (is registered and never connects) and `nobody` (is not registered).
// NODE_EXTRA_CA_CERTS names the authority. Every check prints one line of JSON; one that failed makes the program fail.
const assert = require('node:assert/strict');
const { Client } = require('azure-iothub');
const { Message } = require('azure-iothub/dist/common-core/message.js');

const given = JSON.parse(process.env.RIG);
/** Nothing here takes as long: only a hang does. */
const PATIENCE_MS = 20_000;
/** Messages that may wait for one device. */
const QUEUE = 50;
let failed = 0;

const say = (line) => console.log(JSON.stringify(line));

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not in ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function check(name, body) {
  try {
    say({ name, ok: true, detail: (await within(body(), name)) ?? '' });
  } catch (error) {
    failed += 1;
    say({ name, ok: false, detail: `${error.stack ?? error}` });
  }
}

/** The name of the error that a message is refused with. */
const refusal = (client, device, body) => client.send(device, body).then(() => 'none', (error) => error.name);

/** This SDK's promise of the receiver resolves to nothing but its callback is given it. */
const feedbackReceiver = (client) =>
  new Promise((resolve, reject) => client.getFeedbackReceiver((error, it) => (error ? reject(error) : resolve(it))));

function marked(id) {
  const message = new Message('{"open":true}');
  Object.assign(message, { messageId: id, correlationId: 'c-1', ack: 'full', contentType: 'application/json' });
  Object.assign(message, { contentEncoding: 'utf-8', expiryTimeUtc: Date.now() + 600_000 });
  message.properties.add('colour', 'blue é/+');
  return message;
}

async function main() {
  const client = Client.fromConnectionString(given.service);
  await check('a service connects with its policy', () => client.open());
  await check('a message is accepted, and what became of it comes as feedback', async () => {
    const receiver = await feedbackReceiver(client);
    const id = `11111111-2222-4333-8444-${`${Date.now()}`.padStart(12, '0').slice(-12)}`;
    const fed = new Promise((resolve) => {
      receiver.on('message', async (batch) => {
        const records = JSON.parse(batch.data.toString());
        await receiver.complete(batch);
        const mine = records.find((record) => record.originalMessageId === id);
        if (mine) resolve(mine);
      });
    });
    await client.send(given.device, marked(id));
    const record = await fed;
    assert.equal(record.statusCode, 'Success');
    assert.equal(record.deviceId, given.device);
    return record;
  });
  await check('an unknown device is said to be unknown', async () => {
    assert.equal(await refusal(client, given.nobody, 'x'), 'DeviceNotFoundError');
  });
  await check('a message that is too large is refused, and the next one goes', async () => {
    assert.equal(await refusal(client, given.device, Buffer.alloc(64 * 1024 + 1)), 'MessageTooLargeError');
    assert.equal(await refusal(client, given.device, Buffer.alloc(64 * 1024)), 'none');
  });
  await check('a full queue is said to be full', async () => {
    const sent = await Promise.all(Array.from({ length: QUEUE + 1 }, (_, n) => refusal(client, given.idle, `${n}`)));
    assert.deepEqual(sent.slice(QUEUE), ['DeviceMaximumQueueDepthExceededError']);
    return { accepted: sent.filter((name) => name === 'none').length };
  });
  await client.close();
  await check('a wrong key opens nothing', async () => {
    const wrong = Client.fromConnectionString(given.service.replace(/SharedAccessKey=[^;]*/, 'SharedAccessKey=AAAA'));
    const error = await wrong.open().then(() => undefined, (it) => it);
    assert.equal(error?.amqpError?.name, 'UnauthorizedError');
  });
}

process.on('unhandledRejection', (error) => check('nothing fails unseen', () => Promise.reject(error)));
main()
  .catch((error) => check('the program runs', () => Promise.reject(error)))
  .then(() => process.exit(failed === 0 ? 0 : 1));
