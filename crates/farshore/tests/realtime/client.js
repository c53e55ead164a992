'use strict';
// The official client SDK in both of its subprotocols: groups, acks, events, streams, and recovery when its line is cut.
const { WebPubSubClient, WebPubSubJsonProtocol, WebPubSubJsonReliableProtocol } = require('@azure/web-pubsub-client');
const { assert, check, given, main, Relay, service, Socket, until } = require('./rig.js');

const hub = service();
const roles = ['webpubsub.joinLeaveGroup', 'webpubsub.sendToGroup'];

/** A started client that remembers what it was told. */
async function start(userId, protocol, { through = (url) => url, ...options } = {}) {
  const getClientAccessUrl = async () => through((await hub.getClientAccessToken({ userId, roles })).url);
  const client = new WebPubSubClient({ getClientAccessUrl }, { protocol, ...options });
  const told = { client, connected: [], disconnected: [], group: [], server: [] };
  client.on('connected', (event) => told.connected.push(event));
  client.on('disconnected', (event) => told.disconnected.push(event));
  client.on('group-message', ({ message }) => told.group.push(message));
  client.on('server-message', ({ message }) => told.server.push(message));
  await client.start();
  await until('connected', () => told.connected.length > 0);
  return told;
}

const brief = ({ group, fromUserId, dataType, data }) =>
  [group, fromUserId, dataType, data instanceof ArrayBuffer ? [...new Uint8Array(data)] : data];

async function plain(name, protocol) {
  const [ann, bob] = [await start('ann', protocol()), await start('bob', protocol())];
  await check(`${name}: connected`, async () => {
    assert.equal(ann.connected[0].userId, 'ann');
    assert.equal(await hub.connectionExists(ann.connected[0].connectionId), true);
  });
  await check(`${name}: text, json and binary to a group`, async () => {
    await Promise.all([ann.client.joinGroup('g'), bob.client.joinGroup('g')]);
    await ann.client.sendToGroup('g', 'text', 'text');
    await ann.client.sendToGroup('g', { is: ['json', 1] }, 'json');
    await ann.client.sendToGroup('g', new Uint8Array([0, 128, 255]).buffer, 'binary');
    await until('three at each', () => ann.group.length === 3 && bob.group.length === 3);
    assert.deepEqual(bob.group.map(brief), [
      ['g', 'ann', 'text', 'text'],
      ['g', 'ann', 'json', { is: ['json', 1] }],
      ['g', 'ann', 'binary', [0, 128, 255]],
    ]);
  });
  await check(`${name}: no echo, and without an ack`, async () => {
    const before = ann.group.length;
    await ann.client.sendToGroup('g', 'not to me', 'text', { noEcho: true });
    await ann.client.sendToGroup('g', 'to me', 'text', { fireAndForget: true });
    await until('both at bob', () => bob.group.at(-1).data === 'to me');
    await until('one at ann', () => ann.group.at(-1).data === 'to me');
    assert.equal(ann.group.length, before + 1);
    assert.equal(bob.group.at(-2).data, 'not to me');
  });
  await check(`${name}: the same ack id twice`, async () => {
    const first = await ann.client.sendToGroup('g', 'once', 'text', { ackId: 5001 });
    const again = await ann.client.sendToGroup('g', 'once', 'text', { ackId: 5001 });
    await ann.client.sendToGroup('g', 'after', 'text');
    await until('what came after', () => bob.group.at(-1).data === 'after');
    assert.deepEqual([first.isDuplicated, again.isDuplicated], [false, true]);
    assert.equal(bob.group.filter((message) => message.data === 'once').length, 1);
  });
  await check(`${name}: leave`, async () => {
    await bob.client.leaveGroup('g');
    await ann.client.sendToGroup('g', 'gone', 'text');
    await hub.sendToAll('mark');
    await until('the mark', () => bob.server.some((message) => message.data === 'mark'));
    assert.ok(bob.group.every((message) => message.data !== 'gone'));
  });
  await check(`${name}: an event, with nobody to handle it`, async () => {
    await ann.client.sendEvent('hello', { some: 'thing' }, 'json');
  });
  await check(`${name}: what is not permitted`, async () => {
    const { url } = await hub.getClientAccessToken({ userId: 'eve' });
    const eve = new WebPubSubClient(url, { protocol: protocol(), messageRetryOptions: { maxRetries: 0 } });
    await eve.start();
    for (const act of [() => eve.joinGroup('g'), () => eve.sendToGroup('g', 'x', 'text')]) {
      const error = await act().then(() => assert.fail('it was permitted'), (error) => error);
      assert.equal(error.errorDetail?.name, 'Forbidden', `${error}`);
    }
    eve.stop();
  });
  await check(`${name}: closed by the service, it comes back and joins again`, async () => {
    const old = ann.connected[0].connectionId;
    await hub.closeConnection(old, { reason: 'move on' });
    await until('connected again', () => ann.connected.length === 2);
    assert.equal(ann.disconnected[0].message.message, 'move on');
    assert.notEqual(ann.connected[1].connectionId, old);
    await until('in its group again', () => hub.groupExists('g'));
  });
  ann.client.stop();
  bob.client.stop();
}

/** The numbers that came, each once and in order. */
function numbersAre(messages, count) {
  assert.deepEqual(messages.map((message) => message.data.n), [...Array(count).keys()]);
}

async function recovery() {
  const { url } = await hub.getClientAccessToken();
  const relay = await Relay.to(url);
  const ann = await start('ann', WebPubSubJsonReliableProtocol(), { through: (url) => relay.through(url) });
  await check('recovery: nothing that the service sent is lost or doubled', async () => {
    for (let n = 0; n < 400; n += 1) {
      if (n % 100 === 50) relay.cut();
      await hub.sendToUser('ann', { n });
    }
    await until('all', () => ann.server.length >= 400);
    numbersAre(ann.server, 400);
  });
  await check('recovery: nor what was sent while there was no line', async () => {
    relay.refuses = true;
    relay.cut();
    ann.server.length = 0;
    for (let n = 0; n < 50; n += 1) await hub.sendToUser('ann', { n });
    relay.refuses = false;
    await until('all', () => ann.server.length >= 50);
    numbersAre(ann.server, 50);
  });
  await check('recovery: groups and permissions are kept, and what the client sends is taken once', async () => {
    await ann.client.joinGroup('kept');
    const bob = await start('bob', WebPubSubJsonReliableProtocol());
    await bob.client.joinGroup('kept');
    for (let n = 0; n < 60; n += 1) {
      if (n % 20 === 10) relay.cut();
      // The same ack id for each attempt: the service must know it again after the recovery.
      await ann.client.sendToGroup('kept', { n }, 'json', { ackId: 9000 + n });
    }
    await until('all', () => bob.group.length >= 60);
    numbersAre(bob.group, 60);
    await until('all echoes', () => ann.group.length >= 60);
    numbersAre(ann.group, 60);
    bob.client.stop();
  });
  await check('recovery: the application does not notice', async () => {
    assert.deepEqual([ann.connected.length, ann.disconnected.length], [1, 0]);
  });
  await check('recovery: of a connection that nobody knows ends with 1008 at once', async () => {
    const lost = await Socket.open(`${url}&awps_connection_id=unknown&awps_reconnection_token=unknown`);
    assert.equal((await lost.closed()).code, 1008);
  });
  ann.client.stop();
}

async function streams() {
  const [ann, bob] = [await start('ann'), await start('bob')];
  await check('a stream to a group', async () => {
    await bob.client.joinGroup('film');
    const seen = new Promise((resolve) => {
      bob.client.onGroupStream(async (stream) => {
        const parts = [];
        for await (const part of stream) parts.push(part.data);
        resolve(parts);
      }, { groupNames: ['film'] });
    });
    const writer = await ann.client.openGroupStream('film');
    for (const part of ['one', 'two', 'three']) await writer.write(part, 'text');
    await writer.end();
    assert.deepEqual(await seen, ['one', 'two', 'three']);
  });
  ann.client.stop();
  bob.client.stop();
}

main(async () => {
  assert.ok(given.hub);
  await plain('json', WebPubSubJsonProtocol);
  await plain('reliable json', WebPubSubJsonReliableProtocol);
  await recovery();
  await streams();
});
