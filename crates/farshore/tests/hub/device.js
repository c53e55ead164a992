'use strict';
// A device by the official Node SDK, told what to do line by line: the same orders and events as device.py, where they are described.
// Another port than 8883 is given in the connection string: `GatewayHostName=HOST:PORT`. Methods are subscribed to by name: `ping`
// and what the first line's `methods` lists besides.

const fs = require('node:fs');
const readline = require('node:readline');
const { Client, Message, ModuleClient } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');

const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));
const why = (error) => `${error.name}: ${error.message}`;

function listenToMessages(client) {
  client.on('message', (message) => {
    const properties = Object.fromEntries(message.properties.propertyList.map(({ key, value }) => [key, value]));
    say('message', { body: message.getData().toString(), mid: message.messageId, properties });
    client.complete(message, (error) => error && say('error', { why: why(error) }));
  });
}

function listenToMethods(client, names) {
  const on = (client.onDeviceMethod ?? client.onMethod).bind(client);
  for (const name of names) {
    on(name, (request, response) => {
      say('method', { name, payload: request.payload });
      response.send(200, { method: name, payload: request.payload }, (error) => error && say('error', { why: why(error) }));
    });
  }
}

async function listen(client, given) {
  const to = given.listen || [];
  client.on('connect', () => say('connected'));
  client.on('disconnect', () => say('disconnected'));
  client.on('error', (error) => say('error', { why: why(error) }));
  if (to.includes('messages')) listenToMessages(client);
  if (to.includes('methods')) listenToMethods(client, ['ping', ...(given.methods || [])]);
  if (!to.includes('desired')) return null;
  const twin = await client.getTwin();
  // The SDK tells the whole of it at once; what comes later are changes.
  twin.on('properties.desired', (patch) => say('desired', { patch }));
  return twin;
}

async function send(client, { id, body, mid, properties }) {
  const message = new Message(JSON.stringify(body));
  if (mid) message.messageId = mid;
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  for (const [key, value] of Object.entries(properties || {})) message.properties.add(key, value);
  try {
    await client.sendEvent(message);
    say('sent', { id });
  } catch (error) {
    say('unsent', { id, why: why(error) });
  }
}

function report(twin, patch) {
  return new Promise((done, failed) => twin.properties.reported.update(patch, (error) => (error ? failed(error) : done())));
}

async function perform(client, state, order) {
  try {
    if (order.do === 'send') {
      await send(client, order);
    } else if (order.do === 'twin') {
      if (state.twin) await state.twin.get();
      else state.twin = await client.getTwin();
      const { desired, reported } = state.twin.properties;
      say('twin', { id: order.id, twin: JSON.parse(JSON.stringify({ desired, reported })) });
    } else if (order.do === 'report') {
      state.twin ??= await client.getTwin();
      await report(state.twin, order.patch);
      say('reported', { id: order.id });
    } else {
      throw new Error(`unknown order ${JSON.stringify(order)}`);
    }
  } catch (error) {
    say('failed', { id: order.id, why: why(error) });
  }
}

async function main() {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const given = JSON.parse((await lines.next()).value);
  const kind = given.connection.includes('ModuleId=') ? ModuleClient : Client;
  const client = kind.fromConnectionString(given.connection, given.websockets ? MqttWs : Mqtt);
  const { cert, key } = given.x509 || {};
  const shown = given.x509 && { cert: fs.readFileSync(cert, 'utf8'), key: fs.readFileSync(key, 'utf8') };
  await client.setOptions({ ca: given.ca, ...shown, ...(given.keep_alive && { keepalive: given.keep_alive }) });
  await client.open();
  const state = { twin: await listen(client, given) };
  say('ready');
  for await (const line of lines) {
    const order = JSON.parse(line);
    if (order.do === 'end') break;
    perform(client, state, order);
  }
  await client.close();
  say('ended');
  process.exit(0);
}

main().catch((error) => {
  say('failed', { why: why(error) });
  process.exit(1);
});
