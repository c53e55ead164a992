'use strict';
// Clients of the official SDK that ask `/negotiate` of a pair of regions where to go, and connect by the URL of the answer.
//
// RIG: `endpoints` (the connection strings of the pair's endpoint in paris and in oslo), `hub`. It says `{"ready": "both"}` with
// paris serving, then waits for a line (paris is dead by then) and says `{"ready": "one"}`; after a second line paris must serve again.
const jwt = require('jsonwebtoken');
const { WebPubSubClient } = require('@azure/web-pubsub-client');
const { assert, check, given, main, orders, pause, say, service, until } = require('./rig.js');

const GROUP = 'room';
const clients = [];
let published = 0;

/** The parts of a connection string. */
function parts(connection) {
  const [, endpoint] = /Endpoint=([^;]+);/.exec(connection);
  const [, key] = /AccessKey=([^;]+);/.exec(connection);
  return { endpoint: endpoint.replace(/\/$/, ''), key };
}

/** What the pair's endpoint in this region answers. */
async function ask(region, { token, query = '', hub = given.hub } = {}) {
  const { endpoint } = parts(given.endpoints[region]);
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const url = `${endpoint}/negotiate?hub=${hub}${query}`;
  const answer = await fetch(url, { headers, signal: AbortSignal.timeout(5_000) });
  return { status: answer.status, headers: answer.headers, ...(await answer.json().catch(() => ({}))) };
}

/** The token of an application's server. */
function serverToken(region, key = parts(given.endpoints[region]).key) {
  const { endpoint } = parts(given.endpoints[region]);
  return jwt.sign({ aud: `${endpoint}/negotiate` }, key, { algorithm: 'HS256', expiresIn: '1h' });
}

const invite = (region, user) =>
  ask(region, { token: serverToken(region), query: `&userId=${user}&group=${GROUP}` });

/** A client that asks in this region, at the beginning and whenever it must begin anew. */
async function join(user, invited) {
  const client = new WebPubSubClient({ getClientAccessUrl: async () => (await invited()).url });
  const joined = { user, got: [], anew: -1 };
  client.on('group-message', ({ message }) => joined.got.push(message.data.n));
  const connected = new Promise((resolve) => {
    client.on('connected', ({ userId }) => {
      joined.anew += 1;
      resolve(userId);
    });
  });
  await client.start();
  assert.equal(await connected, user);
  clients.push(joined);
}

/** Sends one message through the pair: every client gets it, once. */
async function reachesAll(region) {
  const n = (published += 1);
  await service(given.endpoints[region]).group(GROUP).sendToAll({ n });
  await until(`everybody has message ${n}`, () => clients.every(({ got }) => got.includes(n)));
  for (const { user, got } of clients) {
    assert.equal(got.filter((one) => one === n).length, 1, `${user} has it once: ${got}`);
  }
  return `${clients.length} clients`;
}

/** Asks until the answer leads to `region`; returns what was answered before. */
async function leadsTo(region, asked) {
  const before = [];
  await until(`${asked} sends clients to ${region}`, async () => {
    const answer = await invite(asked, 'nobody').catch((error) => ({ status: `${error.cause?.code ?? error.name}` }));
    if (answer.region === region) return true;
    before.push(answer.region ?? answer.status);
    await pause(20);
    return false;
  });
  return before;
}

async function withBoth() {
  await check('both endpoints send clients to the primary', async () => {
    for (const asked of ['paris', 'oslo']) {
      const { status, region, primary, url, baseUrl, token, retryAfterMs, headers } = await invite(asked, 'somebody');
      assert.deepEqual({ status, region, primary }, { status: 200, region: 'paris', primary: true });
      assert.equal(url, `${baseUrl}?access_token=${token}`);
      assert.equal(headers.get('cache-control'), 'no-store');
      assert.ok(retryAfterMs >= 0);
    }
  });
  await check('clients connect by the URL that either answers', async () => {
    await join('near', () => invite('paris', 'near'));
    await join('far', () => invite('oslo', 'far'));
  });
  await check('a token of the SDK becomes one for the endpoint that is chosen', async () => {
    const invited = async () => {
      const options = { userId: 'own', groups: [GROUP] };
      const { token } = await service(given.endpoints.oslo).getClientAccessToken(options);
      // The query cannot make somebody else of it.
      return ask('oslo', { token, query: '&userId=other' });
    };
    await join('own', invited);
  });
  await check('a message through either endpoint reaches all of them once', async () => {
    await reachesAll('paris');
    return reachesAll('oslo');
  });
  await check('whoever has no token is told the place only', async () => {
    const { status, region, token, url, baseUrl } = await ask('oslo');
    assert.deepEqual({ status, region, token }, { status: 200, region: 'paris', token: undefined });
    assert.equal(url, baseUrl);
  });
  await check('a token under another key is refused', async () => {
    assert.equal((await ask('oslo', { token: serverToken('oslo', 'another-key') })).status, 401);
  });
  await check('a hub that there is not is refused', async () => {
    const { status } = await ask('oslo', { token: serverToken('oslo'), hub: 'nothing' });
    assert.ok(status >= 400 && status < 500, `${status}`);
  });
}

async function withOne() {
  await check('the survivor sends clients to itself', async () => {
    const before = await leadsTo('oslo', 'oslo');
    return `after ${JSON.stringify(before)}`;
  });
  await check('so does the address of the lost endpoint', async () => {
    const before = await leadsTo('oslo', 'paris');
    return `after ${JSON.stringify(before)}`;
  });
  await check('new clients connect by the URL that either answers', async () => {
    await join('new-near', () => invite('paris', 'new-near'));
    await join('new-far', () => invite('oslo', 'new-far'));
  });
  await check('a message reaches them and those from before once', () => reachesAll('oslo'));
}

async function atHome() {
  await check('both endpoints send clients home', async () => {
    assert.deepEqual(await leadsTo('paris', 'paris'), []);
    await leadsTo('paris', 'oslo');
  });
  await check('a message reaches everybody once, at home', () => reachesAll('paris'));
  await check('who was there before the loss never began anew', async () => {
    for (const { user, anew } of clients.slice(0, 3)) assert.equal(anew, 0, user);
  });
}

main(async () => {
  const line = orders();
  await withBoth();
  say({ ready: 'both' });
  await line.next();
  await withOne();
  say({ ready: 'one' });
  await line.next();
  await atHome();
  say({ clients: clients.map(({ user, anew }) => ({ user, anew })) });
});
