'use strict';
// An application on a pair of regions: clients of the official SDK that receive, and a publisher that never stops.
//
// RIG: `connections` (the connection strings that clients' tokens are made from), `each` (clients of each of them), `publish`
// (the connection string that is published through), `hub`, `pace_ms`, `group` (two programs on one hub have one each). It says
// `{"connected": n}` and `{"acknowledged": n}` while it runs; at a line on its standard input it stops publishing, waits for what
// is owed, and says what was lost, doubled, and how long the longest silence was.
const { WebPubSubClient } = require('@azure/web-pubsub-client');
const { assert, check, given, main, orders, pause, say, service } = require('./rig.js');

const GROUP = given.group ?? 'room';
/** Between two messages. */
const PACE_MS = given.pace_ms ?? 10;
/** So many clients begin at once. */
const BATCH = 100;
/** What a client is owed comes within this. */
const OWED_MS = 60_000;

/** A client that remembers when it got which number. */
async function start(connection, index) {
  const hub = service(connection);
  const got = { index, times: new Map(), doubled: [], connections: [], last: 0, silence: 0 };
  const options = { userId: `user-${index}`, groups: [GROUP] };
  // Asked again after a loss that cannot be recovered, as in any application.
  const getClientAccessUrl = async () => (await hub.getClientAccessToken(options)).url;
  const client = new WebPubSubClient({ getClientAccessUrl });
  const connected = new Promise((resolve) => {
    client.on('connected', ({ connectionId }) => resolve(got.connections.push(connectionId)));
  });
  client.on('group-message', ({ message }) => receive(got, message.data.n));
  client.on('server-message', ({ message }) => receive(got, message.data.n));
  await client.start();
  await connected;
  return got;
}

function receive(got, n) {
  const now = performance.now();
  if (got.times.has(n)) got.doubled.push(n);
  got.times.set(n, now);
  if (got.last > 0) got.silence = Math.max(got.silence, now - got.last);
  got.last = now;
}

/** Publishes numbers until told to stop; a number is acknowledged or never sent again. */
async function publish(state) {
  // One attempt each: whether a message came twice must be the service's doing.
  const room = service(given.publish, given.hub, { retryOptions: { maxRetries: 0 } }).group(GROUP);
  for (let n = 0; !state.stop; n += 1) {
    try {
      await room.sendToAll({ n }, { abortSignal: AbortSignal.timeout(5_000) });
      state.acknowledged.push(n);
      say({ acknowledged: state.acknowledged.length });
    } catch (error) {
      state.refused += 1;
      state.why = `${error.code ?? error.name} ${error.message}`.slice(0, 200);
    }
    await pause(PACE_MS);
  }
}

/** How many there are, and from where to where, when there should be none. */
const none = (numbers, what) => assert.equal(numbers.length, 0, `${what}: ${numbers.at(0)} to ${numbers.at(-1)}`);

const missing = (got, state) => state.acknowledged.filter((n) => !got.times.has(n));

async function startAll() {
  const wanted = Array(given.each ?? 1).fill(given.connections).flat();
  const clients = [];
  while (clients.length < wanted.length) {
    const batch = wanted.slice(clients.length, clients.length + BATCH);
    clients.push(...(await Promise.all(batch.map((one, at) => start(one, clients.length + at)))));
    say({ connected: clients.length });
  }
  return clients;
}

main(async () => {
  const clients = await startAll();
  const state = { acknowledged: [], refused: 0, why: '', stop: false };
  const publishing = publish(state);
  await orders().next();
  state.stop = true;
  await publishing;
  const end = Date.now() + OWED_MS;
  while (clients.some((got) => missing(got, state).length > 0) && Date.now() < end) await pause(50);
  await check('nothing that was acknowledged is lost', async () => {
    for (const got of clients) none(missing(got, state), `lost by client ${got.index}`);
    return `${state.acknowledged.length} acknowledged, ${state.refused} refused (${state.why})`;
  });
  await check('nothing came twice', async () => {
    for (const got of clients) none(got.doubled, `twice at client ${got.index}`);
  });
  say({
    clients: clients.length,
    acknowledged: state.acknowledged.length,
    refused: state.refused,
    longest_silence_ms: Math.round(Math.max(...clients.map((got) => got.silence))),
    began_anew: clients.filter((got) => got.connections.length > 1).length,
  });
});
