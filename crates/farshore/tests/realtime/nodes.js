'use strict';
// An application on a region with two nodes, and on another region: all clients are in one group.
//
// RIG: `near` (a connection string that leads to either node), `far` (one of the other region), `nodes` (one for each node by itself), `each`
// (clients of each node and of the other region), `further` (the pair's endpoint at the further node), `publish` (connection strings that are published through, by name), `hub`. It says `{"ready": "two"}` once everybody has
// heard everybody; then one node dies, and a line on the standard input says that its clients are connected again.
const { WebPubSubClient } = require('@azure/web-pubsub-client');
const { assert, check, given, main, orders, pause, say, service, until } = require('./rig.js');

const GROUP = 'room';
/** Between two messages of the publisher that never stops. */
const PACE_MS = 10;
const clients = [];

async function start(connection, index) {
  const hub = service(connection);
  const options = { userId: `user-${index}`, groups: [GROUP], roles: [`webpubsub.sendToGroup.${GROUP}`] };
  const getClientAccessUrl = async () => (await hub.getClientAccessToken(options)).url;
  const client = new WebPubSubClient({ getClientAccessUrl });
  const one = { index, client, got: new Map(), anew: -1 };
  const connected = new Promise((resolve) => {
    client.on('connected', () => resolve((one.anew += 1)));
  });
  client.on('group-message', ({ message }) => {
    const { id } = message.data;
    one.got.set(id, (one.got.get(id) ?? 0) + 1);
  });
  await client.start();
  await connected;
  clients.push(one);
}

/** Everybody has each of these, once. */
async function allHave(ids, whom = clients) {
  const missing = () => whom.flatMap(({ index, got }) => ids.filter((id) => !got.has(id)).map((id) => `${id} at ${index}`));
  await until('everybody has them', () => missing().length === 0).catch((error) => {
    const all = missing();
    throw new Error(`${error.message}; ${all.length} are missing, such as ${all.slice(0, 8)}`);
  });
  for (const { index, got } of whom) for (const id of ids) assert.equal(got.get(id), 1, `${id} at client ${index}`);
  return `${ids.length} messages, ${whom.length} clients`;
}

async function hearEachOther(round) {
  await check(`everybody hears what each sends to the group, ${round}`, async () => {
    const id = ({ index }) => `${round} of ${index}`;
    await Promise.all(clients.map((one) => one.client.sendToGroup(GROUP, { id: id(one) }, 'json')));
    return allHave(clients.map(id));
  });
}

async function hearThePublisher(name, round) {
  await check(`everybody hears what comes through ${name}, ${round}`, async () => {
    const ids = Array.from({ length: 10 }, (_, n) => `${name} ${round} ${n}`);
    const reports = new Set();
    const onResponse = ({ headers }) => reports.add(headers.get('x-farshore-endpoints'));
    for (const id of ids) await service(given.publish[name]).group(GROUP).sendToAll({ id }, { onResponse });
    const told = [...reports].join('; ');
    return allHave(ids).then((text) => `${text}: ${told}`, (error) => { throw new Error(`${error.message}: ${told}`); });
  });
}

/** Publishes until told to stop; returns what was acknowledged. */
async function publish(state) {
  const room = service(given.publish['the pair in paris'], given.hub, { retryOptions: { maxRetries: 0 } }).group(GROUP);
  for (let n = 0; !state.stop; n += 1) {
    await room.sendToAll({ id: `${n}` });
    state.acknowledged.push(`${n}`);
    await pause(PACE_MS);
  }
}

/** A node that has just been started learns its hubs within a second or two. */
async function serves(connection) {
  const hub = service(connection, given.hub, { retryOptions: { maxRetries: 0 } });
  await until(`${connection} serves`, () => hub.groupExists(GROUP).then(() => true, () => false));
}

main(async () => {
  for (const node of given.nodes) await serves(node);
  const wanted = [...Array(2 * given.each).fill(given.near), ...Array(given.each).fill(given.far)];
  // One by one: the nodes take turns.
  for (const [index, connection] of wanted.entries()) await start(connection, index);
  await hearEachOther('with two nodes');
  for (const name of Object.keys(given.publish)) await hearThePublisher(name, 'with two nodes');
  await check('the further node sends clients to where its region serves', async () => {
    const { token } = await service(given.further).getClientAccessToken({ userId: 'asks' });
    const [, endpoint] = /Endpoint=([^;]+);/.exec(given.further);
    const answer = await fetch(`${endpoint}/negotiate?hub=${given.hub}`, { headers: { authorization: `Bearer ${token}` } });
    const { url, region, primary } = await answer.json();
    assert.deepEqual({ status: answer.status, region, primary }, { status: 200, region: 'paris', primary: true });
    const client = new WebPubSubClient(url);
    await client.start();
    client.stop();
  });
  const state = { acknowledged: [], stop: false };
  const publishing = publish(state);
  await until('the publisher is under way', () => state.acknowledged.length > 10);
  say({ ready: 'two' });
  await orders().next();
  await until('the dead node\'s clients have begun anew', () => clients.filter(({ anew }) => anew > 0).length >= given.each);
  const since = state.acknowledged.length;
  await until('the publisher goes on', () => state.acknowledged.length > since + 20);
  state.stop = true;
  await check('the publisher is never refused', () => publishing);
  await check('clients of the node that lives miss nothing', () =>
    allHave(state.acknowledged, clients.filter(({ anew }) => anew === 0)));
  await check('clients of the dead node are told everything again, and nothing twice', async () => {
    await allHave(state.acknowledged.slice(since + 1));
    for (const { index, got } of clients) for (const [id, times] of got) assert.equal(times, 1, `${id} at client ${index}`);
  });
  await hearEachOther('with one node');
  await hearThePublisher('the pair in paris', 'with one node');
  await hearThePublisher('the pair in oslo', 'with one node');
  const anew = clients.filter((one) => one.anew > 0).length;
  await check('only clients of the dead node began anew', async () => assert.equal(anew, given.each));
  say({ acknowledged: state.acknowledged.length, began_anew: anew });
});
