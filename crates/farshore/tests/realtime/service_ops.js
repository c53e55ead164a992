'use strict';
// Every operation of the official service SDK, seen from sockets that are connected meanwhile.
const { odata } = require('@azure/web-pubsub');
const { assert, check, given, main, service, Socket } = require('./rig.js');

const JSON_PROTOCOL = 'json.webpubsub.azure.v1';
const hub = service();
let marks = 0;

async function connect(options, protocol = JSON_PROTOCOL, by = hub) {
  return Socket.open((await by.getClientAccessToken(options)).url, protocol);
}

/** What a socket got of messages, as the application sees it. */
const data = (frame) => (frame?.type === 'message' ? frame.data : frame);

/** What each of the people got because of `act`: all that came before a mark that is sent to all afterwards. */
async function delivered(people, act) {
  await act();
  const mark = `mark ${++marks}`;
  await hub.sendToAll(mark, { contentType: 'text/plain' });
  const got = {};
  for (const [name, socket] of Object.entries(people)) {
    got[name] = (await socket.upTo((frame) => data(frame) === mark)).slice(0, -1).map(data);
  }
  return got;
}

const id = (socket) => socket.connected.connectionId;

async function fails(status, act) {
  const error = await act().then(() => assert.fail(`expected ${status}`), (error) => error);
  assert.equal(error.statusCode, status, `${error}`);
  return error;
}

/** Opens a socket that must be refused before the upgrade; returns the status. */
async function refused(url) {
  const error = await Socket.open(url, JSON_PROTOCOL).then(() => assert.fail('it was let in'), (error) => error);
  return Number(/(\d{3})$/.exec(error.message)[1]);
}

async function health() {
  for (const method of ['GET', 'HEAD']) {
    assert.equal((await fetch(`${hub.endpoint.replace(/\/$/, '')}/api/health`, { method })).status, 200, method);
  }
}

async function sending(people) {
  const { ann, bob } = people;
  const simple = await connect({ userId: 'sam' }, null);
  const all = { ...people, simple };
  await check('sendToAll json', async () => {
    const got = await delivered(all, () => hub.sendToAll({ a: [1, null, 'x'] }));
    assert.deepEqual(got.ann, [{ a: [1, null, 'x'] }]);
    assert.deepEqual(got.bob, got.ann);
    assert.deepEqual(got.simple, ['{"a":[1,null,"x"]}']);
  });
  await check('sendToAll text', async () => {
    const got = await delivered(all, () => hub.sendToAll('grüße', { contentType: 'text/plain' }));
    assert.deepEqual([got.ann, got.simple], [['grüße'], ['grüße']]);
  });
  await check('sendToAll binary', async () => {
    const got = await delivered(all, () => hub.sendToAll(Buffer.from([0, 1, 255])));
    assert.deepEqual(got.ann, ['AAH/']);
    assert.deepEqual([...got.simple[0]], [0, 1, 255]);
  });
  await check('sendToAll a text as json', async () => {
    const got = await delivered(all, () => hub.sendToAll('plain'));
    assert.deepEqual([got.ann, got.simple], [['plain'], ['"plain"']]);
  });
  await check('sendToAll excluded', async () => {
    const got = await delivered(people, () => hub.sendToAll('x', { excludedConnections: [id(ann)] }));
    assert.deepEqual([got.ann, got.bob], [[], ['x']]);
  });
  await check('sendToAll filter', async () => {
    const filter = odata`userId eq ${'ann'}`;
    const got = await delivered(people, () => hub.sendToAll('x', { filter }));
    assert.deepEqual([got.ann, got.bob], [['x'], []]);
  });
  await check('sendToAll a filter that is none', async () => {
    const error = await fails(400, () => hub.sendToAll('x', { filter: 'invalid filter' }));
    assert.match(error.message, /Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'/);
  });
  await check('sendToAll with a time to live', async () => {
    const got = await delivered(people, () => hub.sendToAll('x', { messageTtlSeconds: 300 }));
    assert.deepEqual(got.ann, ['x']);
    await fails(400, () => hub.sendToAll('x', { messageTtlSeconds: 301 }));
  });
  await check('sendToUser with metadata', async () => {
    const requestOptions = { customHeaders: { 'X-WebPubSub-Metadata-Colour': 'green' } };
    await hub.sendToUser('ann', 'with metadata', { requestOptions });
    const frame = await ann.next((frame) => data(frame) === 'with metadata');
    assert.deepEqual(Object.values(frame.metadata), ['green']);
  });
  await check('sendToUser', async () => {
    const got = await delivered(people, () => hub.sendToUser('ann', { to: 'ann' }));
    assert.deepEqual([got.ann, got.bob], [[{ to: 'ann' }], []]);
    const none = await delivered(people, () => hub.sendToUser('ann', 'x', { filter: odata`userId ne ${'ann'}` }));
    assert.deepEqual([none.ann, none.bob], [[], []]);
    await hub.sendToUser('nobody', 'x', { contentType: 'text/plain', messageTtlSeconds: 1 });
  });
  await check('sendToConnection', async () => {
    const got = await delivered(people, () => hub.sendToConnection(id(bob), Buffer.from('b')));
    assert.deepEqual([got.ann, got.bob], [[], ['Yg==']]);
    await hub.sendToConnection('unknown', 'x');
  });
  simple.ws.close();
}

async function groups(people) {
  const { ann, bob } = people;
  const room = hub.group('room');
  await check('group add, exists, send, remove', async () => {
    assert.equal(await hub.groupExists('room'), false);
    await room.addConnection(id(ann));
    assert.equal(await hub.groupExists('room'), true);
    let got = await delivered(people, () => room.sendToAll({ n: 1 }));
    assert.deepEqual([got.ann, got.bob], [[{ n: 1 }], []]);
    await room.addUser('bob');
    got = await delivered(people, () => room.sendToAll('t', { contentType: 'text/plain', excludedConnections: [id(ann)] }));
    assert.deepEqual([got.ann, got.bob], [[], ['t']]);
    got = await delivered(people, () => room.sendToAll('f', { filter: "userId eq 'ann'", messageTtlSeconds: 5 }));
    assert.deepEqual([got.ann, got.bob], [['f'], []]);
    await room.removeConnection(id(ann));
    await room.removeUser('bob');
    assert.equal(await hub.groupExists('room'), false);
  });
  await check('group of whom nobody knows', async () => {
    await fails(404, () => room.addConnection('unknown'));
    await fails(404, () => room.addUser('nobody'));
    await room.removeConnection('unknown');
    await room.removeUser('nobody');
  });
  await check('addConnectionsToGroups and removeConnectionsFromGroups', async () => {
    await hub.addConnectionsToGroups(['one', 'two'], "startswith(userId, 'a')");
    let got = await delivered(people, () => hub.group('two').sendToAll('2'));
    assert.deepEqual([got.ann, got.bob], [['2'], []]);
    got = await delivered(people, () => hub.sendToAll('in', { filter: "'one' in groups" }));
    assert.deepEqual([got.ann, got.bob], [['in'], []]);
    await hub.removeConnectionsFromGroups(['one'], "userId eq 'ann'");
    assert.deepEqual([await hub.groupExists('one'), await hub.groupExists('two')], [false, true]);
  });
  await check('from all groups', async () => {
    await hub.group('one').addConnection(id(ann));
    await hub.removeConnectionFromAllGroups(id(ann));
    assert.deepEqual([await hub.groupExists('one'), await hub.groupExists('two')], [false, false]);
    await hub.group('one').addUser('bob');
    await hub.removeUserFromAllGroups('bob');
    assert.equal(await hub.groupExists('one'), false);
    await hub.removeConnectionFromAllGroups('unknown');
    await hub.removeUserFromAllGroups('nobody');
  });
  await check('names of any characters', async () => {
    const odd = await connect({ userId: 'us er/1?ä%' });
    assert.equal(odd.connected.userId, 'us er/1?ä%');
    assert.equal(await hub.userExists('us er/1?ä%'), true);
    await hub.group('gr oup/#ü&').addUser('us er/1?ä%');
    const got = await delivered({ odd, bob }, () => hub.group('gr oup/#ü&').sendToAll('odd'));
    assert.deepEqual(got, { odd: ['odd'], bob: [] });
    odd.ws.close();
  });
}

async function paging() {
  const crowd = [];
  for (let n = 0; n < 6; n += 1) crowd.push(await connect({ userId: `u${n}`, groups: ['crowd'] }));
  for (const [options, sizes] of [
    [{ top: 6 }, [6]],
    [{ top: 3 }, [3]],
    [{ maxPageSize: 2 }, [2, 2, 2]],
    [{ top: 5, maxPageSize: 2 }, [2, 2, 1]],
  ]) {
    await check(`listConnections ${JSON.stringify(options)}`, async () => {
      const pages = [];
      for await (const page of (await hub.group('crowd').listConnections(options)).byPage()) pages.push(page);
      assert.deepEqual(pages.map((page) => page.length), sizes);
      const ids = pages.flat().map((member) => member.connectionId);
      assert.equal(new Set(ids).size, ids.length);
    });
  }
  await check('listConnections names connections and users', async () => {
    const members = {};
    for await (const member of await hub.group('crowd').listConnections()) members[member.userId] = member.connectionId;
    assert.deepEqual(members, Object.fromEntries(crowd.map((socket) => [socket.connected.userId, id(socket)])));
  });
  crowd.forEach((socket) => socket.ws.close());
}

async function permissions({ ann }) {
  let ackId = 100;
  const join = async (group) => {
    ann.send({ type: 'joinGroup', group, ackId: ++ackId });
    return ann.next((frame) => frame.type === 'ack');
  };
  await check('permission for one group', async () => {
    assert.equal((await join('g')).error.name, 'Forbidden');
    assert.equal(await hub.hasPermission(id(ann), 'joinLeaveGroup', { targetName: 'g' }), false);
    await hub.grantPermission(id(ann), 'joinLeaveGroup', { targetName: 'g' });
    assert.equal(await hub.hasPermission(id(ann), 'joinLeaveGroup', { targetName: 'g' }), true);
    assert.equal(await hub.hasPermission(id(ann), 'sendToGroup', { targetName: 'g' }), false);
    assert.equal((await join('g')).success, true);
    assert.equal((await join('h')).error.name, 'Forbidden');
    await hub.revokePermission(id(ann), 'joinLeaveGroup', { targetName: 'g' });
    assert.equal(await hub.hasPermission(id(ann), 'joinLeaveGroup', { targetName: 'g' }), false);
  });
  await check('permission for all groups', async () => {
    await hub.grantPermission(id(ann), 'joinLeaveGroup');
    assert.equal((await join('h')).success, true);
    await hub.revokePermission(id(ann), 'joinLeaveGroup');
    assert.equal((await join('i')).error.name, 'Forbidden');
  });
  await check('permission of whom nobody knows', async () => {
    await fails(404, () => hub.grantPermission('unknown', 'sendToGroup'));
    await hub.revokePermission('unknown', 'sendToGroup');
    assert.equal(await hub.hasPermission('unknown', 'sendToGroup'), false);
  });
}

async function closing({ ann, bob }) {
  await check('exists', async () => {
    assert.deepEqual([await hub.connectionExists(id(ann)), await hub.connectionExists('unknown')], [true, false]);
    assert.deepEqual([await hub.userExists('ann'), await hub.userExists('nobody')], [true, false]);
  });
  const told = async (socket, reason) => {
    assert.equal((await socket.next((frame) => frame.event === 'disconnected')).message, reason);
    assert.equal((await socket.closed()).code, 1000);
  };
  await check('closeConnection', async () => {
    const one = await connect({ userId: 'one' });
    await hub.closeConnection(id(one), { reason: 'enough & more' });
    await told(one, 'enough & more');
    assert.equal(await hub.connectionExists(id(one)), false);
    await hub.closeConnection('unknown');
  });
  await check('closeUserConnections', async () => {
    const both = [await connect({ userId: 'two' }), await connect({ userId: 'two' })];
    await hub.closeUserConnections('two', { reason: 'user' });
    for (const socket of both) await told(socket, 'user');
    assert.equal(await hub.userExists('two'), false);
  });
  await check('closeAllConnections of a group', async () => {
    const one = await connect({ groups: ['closing'] });
    await hub.group('closing').closeAllConnections({ reason: 'group' });
    await told(one, 'group');
    assert.equal(await hub.connectionExists(id(ann)), true);
  });
  await check('closeAllConnections', async () => {
    await hub.closeAllConnections({ reason: 'all' });
    await told(ann, 'all');
    await told(bob, 'all');
  });
}

async function tokens() {
  await check('a token with roles and groups', async () => {
    const socket = await connect({ userId: 'zoe', roles: ['webpubsub.sendToGroup'], groups: ['g1', 'g2'] });
    socket.send({ type: 'sendToGroup', group: 'g2', dataType: 'text', data: 'echo', ackId: 1 });
    const echo = await socket.next((frame) => frame.type === 'message');
    assert.deepEqual([echo.from, echo.group, echo.fromUserId, echo.data], ['group', 'g2', 'zoe', 'echo']);
    socket.ws.close();
  });
  await check('a token that the service makes', async () => {
    const options = { userId: 'eve', role: ['webpubsub.joinLeaveGroup'], group: ['made'], minutesToExpire: 5 };
    const { token } = await hub.client.webPubSub.generateClientToken(hub.hubName, options);
    const { baseUrl } = await hub.getClientAccessToken();
    const socket = await Socket.open(`${baseUrl}?access_token=${token}`, JSON_PROTOCOL);
    assert.equal(socket.connected.userId, 'eve');
    socket.ws.close();
  });
  await check('the secondary key', async () => {
    const second = service(given.secondary);
    const socket = await connect({ userId: 'sec' }, JSON_PROTOCOL, second);
    await second.sendToUser('sec', 'by the second key');
    await socket.next((frame) => data(frame) === 'by the second key');
    socket.ws.close();
  });
  await check('a forged key', async () => {
    const forged = service(given.connection.replace(/AccessKey=.*?;/, 'AccessKey=Zm9yZ2VkIGZvcmdlZCBmb3JnZWQgZm9yZ2VkIQ==;'));
    await fails(401, () => forged.sendToAll('x'));
    assert.equal(await refused((await forged.getClientAccessToken()).url), 401);
  });
  await check('a token of another hub', async () => {
    const { url } = await service(given.connection, 'other').getClientAccessToken();
    assert.equal(await refused(url.replace('/hubs/other', `/hubs/${given.hub}`)), 401);
  });
  await check('hub names in any case', async () => {
    const loud = service(given.connection, given.hub.toUpperCase());
    const socket = await connect({ userId: 'loud' }, JSON_PROTOCOL, loud);
    assert.equal(await hub.userExists('loud'), true);
    socket.ws.close();
  });
  await check('behind a proxy of another name', async () => {
    const [, endpoint] = /Endpoint=(.*?);/i.exec(given.connection);
    const named = given.connection.replace(endpoint, given.audience);
    await service(named, given.hub, { reverseProxyEndpoint: endpoint }).sendToAll('through a proxy');
  });
}

main(async () => {
  await check('health', health);
  const people = { ann: await connect({ userId: 'ann' }), bob: await connect({ userId: 'bob' }) };
  await sending(people);
  await groups(people);
  await paging();
  await permissions(people);
  await tokens();
  await closing(people);
});
