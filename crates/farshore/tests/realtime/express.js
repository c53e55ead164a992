'use strict';
// The handlers that applications write with the official package for express, behind the hub, from connect to disconnected.
//
// It says `{"listening": port}` and waits for a line: by then the harness has told the hub where its handler is.
const express = require('express');
const { WebPubSubEventHandler } = require('@azure/web-pubsub-express');
const { InvocationError, WebPubSubClient } = require('@azure/web-pubsub-client');
const { assert, check, given, main, orders, say, service, Socket, until } = require('./rig.js');

const JSON_PROTOCOL = 'json.webpubsub.azure.v1';
const told = { asked: [], connect: [], connected: [], disconnected: [], events: [] };

const handlers = {
  handleConnect(request, response) {
    told.connect.push(request);
    if (request.query.refuse) return response.fail(401, 'not you');
    response.setState('visits', 1);
    return response.success({ userId: request.claims.sub?.[0] ?? 'made up', groups: ['hall'], roles: ['webpubsub.sendToGroup.hall'] });
  },
  onConnected: (request) => told.connected.push(request),
  onDisconnected: (request) => told.disconnected.push(request),
  handleUserEvent(request, response) {
    told.events.push(request);
    const { eventName, states } = request.context;
    if (eventName === 'fail') return response.fail(500, 'broken');
    if (eventName === 'count') {
      response.setState('visits', states.visits + 1);
      return response.success(JSON.stringify({ visits: states.visits }), 'json');
    }
    const { data, dataType } = request;
    return response.success(dataType === 'json' ? JSON.stringify(data) : data, dataType);
  },
};

async function listen() {
  const app = express();
  app.options('/events', (request, _, next) => (told.asked.push(request.headers), next()));
  app.use(new WebPubSubEventHandler(given.hub, { path: '/events', ...handlers }).getMiddleware());
  const server = app.listen(given.port ?? 0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  return server.address().port;
}

async function begin(query = '', options = { userId: 'ann' }, protocol = JSON_PROTOCOL) {
  const { url } = await service().getClientAccessToken(options);
  return Socket.open(`${url}${query}`, protocol);
}

const isMessage = (frame) => frame.type === 'message';

async function connecting() {
  await check('the hub asked whether it may send events', async () => {
    assert.ok(told.asked.some((headers) => headers['webhook-request-origin'] && headers['ce-awpsversion']));
  });
  await check('connect: claims, query, headers and subprotocols go to the handler', async () => {
    const ann = await begin('&colour=green');
    const request = told.connect.at(-1);
    assert.deepEqual([request.claims.sub, request.query.colour], [['ann'], ['green']]);
    assert.deepEqual(request.subprotocols, [JSON_PROTOCOL]);
    assert.ok(Object.keys(request.headers).some((name) => name.toLowerCase() === 'sec-websocket-version'));
    assert.match(request.context.signature, /^sha256=[0-9a-f]{64}(,sha256=[0-9a-f]{64})?$/);
    assert.equal(request.context.hub.toLowerCase(), given.hub.toLowerCase());
    ann.ws.close();
  });
  await check('connect: user, groups and roles come from the handler', async () => {
    const one = await begin('', {});
    assert.equal(one.connected.userId, 'made up');
    one.send({ type: 'sendToGroup', group: 'hall', dataType: 'text', data: 'all', ackId: 1 });
    assert.equal((await one.next(isMessage)).data, 'all');
    one.ws.close();
  });
  await check('connect: refused by the handler', async () => {
    const error = await begin('&refuse=1').then(() => assert.fail('it was let in'), (error) => error);
    assert.match(error.message, /401/);
  });
  await check('connected and disconnected are told', async () => {
    const id = (await begin().then((ann) => (ann.ws.close(), ann))).connected.connectionId;
    const of = (list) => list.filter((request) => request.context.connectionId === id);
    await until('both', () => of(told.connected).length === 1 && of(told.disconnected).length === 1);
    assert.equal(of(told.connected)[0].context.userId, 'ann');
  });
}

async function events() {
  const ann = await begin();
  let ackId = 0;
  const send = async (event, dataType, data) => {
    ann.send({ type: 'event', event, dataType, data, ackId: ++ackId });
    const frames = [await ann.next(() => true)];
    if (event !== 'fail') frames.push(await ann.next(() => true));
    return { ack: frames.find((frame) => frame.type === 'ack'), message: frames.find(isMessage) };
  };
  await check('events: the answer comes back in the kind that it was sent', async () => {
    for (const [kind, value] of [['text', 'grüße'], ['json', { a: [1] }], ['binary', 'AP8=']]) {
      const { ack, message } = await send('echo', kind, value);
      assert.equal(ack.success, true);
      assert.deepEqual([message.from, message.dataType, message.data], ['server', kind, value]);
      assert.deepEqual([told.events.at(-1).dataType, told.events.at(-1).context.eventName], [kind, 'echo']);
    }
  });
  await check('events: the state of the connection goes there and back', async () => {
    for (const visits of [2, 3, 4]) assert.deepEqual((await send('count', 'text', '')).message.data, { visits });
  });
  await check('events: a handler that fails', async () => {
    const { ack } = await send('fail', 'text', 'x');
    assert.deepEqual([ack.success, ack.error.name], [false, 'InternalServerError']);
  });
  ann.ws.close();
  await check('events: of a client without a subprotocol', async () => {
    const simple = await begin('', { userId: 'sam' }, null);
    simple.ws.send('as it is');
    assert.equal(await simple.next(() => true), 'as it is');
    assert.equal(told.events.at(-1).context.eventName, 'message');
    simple.ws.close();
  });
}

async function invocations() {
  await check('events: invoked by the official client', async () => {
    const client = new WebPubSubClient((await service().getClientAccessToken({ userId: 'ann' })).url);
    await client.start();
    const answer = await client.invokeEvent('echo', 'what?', 'text');
    assert.deepEqual([answer.dataType, answer.data], ['text', 'what?']);
    const error = await client.invokeEvent('fail', 'x', 'text').then(() => assert.fail('it went well'), (error) => error);
    assert.ok(error instanceof InvocationError, `${error}`);
    client.stop();
  });
}

main(async () => {
  say({ listening: await listen() });
  await orders().next();
  await connecting();
  await events();
  await invocations();
});
