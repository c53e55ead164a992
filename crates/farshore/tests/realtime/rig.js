'use strict';
// What the programs here share: checks that are printed one a line, sockets that remember what came, and a line that can be cut.
//
// The environment variable RIG says in JSON where the hub is: `connection` and `secondary` (connection strings with either
// key), `hub`, and what a single program needs besides.
const assert = require('node:assert/strict');
const net = require('node:net');
const readline = require('node:readline');
const WebSocket = require('ws');
const { WebPubSubServiceClient } = require('@azure/web-pubsub');

const given = JSON.parse(process.env.RIG);
/** Nothing here takes as long: only a hang does. */
const PATIENCE_MS = 20_000;
let failed = 0;

/** Prints one line for the harness. */
const say = (line) => console.log(JSON.stringify(line));

/** Runs one check and prints how it ended. */
async function check(name, body) {
  try {
    say({ name, ok: true, detail: (await within(PATIENCE_MS * 3, body(), name)) ?? '' });
  } catch (error) {
    failed += 1;
    say({ name, ok: false, detail: `${error.stack ?? error}` });
  }
}

/** Ends the program: what failed is in its exit status. */
const finish = () => process.exit(failed === 0 ? 0 : 1);

/** Runs the program's checks; one that cannot even begin has failed too. */
function main(body) {
  process.on('unhandledRejection', (error) => check('nothing fails unseen', () => Promise.reject(error)));
  body().catch((error) => check('the program runs', () => Promise.reject(error))).then(finish);
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The promise, or an error that names what was waited for. */
function within(ms, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not in ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Asks again until the answer is true. */
async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not in ${PATIENCE_MS} ms: ${what}`);
    await pause(5);
  }
}

/** A client of the service by connection string. */
const service = (connection = given.connection, hub = given.hub, options = {}) =>
  new WebPubSubServiceClient(connection, hub, { allowInsecureConnection: true, ...options });

/** One plain WebSocket that remembers what came. */
class Socket {
  constructor(url, protocols) {
    this.waiting = () => {};
    this.frames = [];
    this.ws = new WebSocket(url, protocols);
    this.ws.on('message', (data, isBinary) => this.take(isBinary ? data : data.toString()));
    this.ws.on('error', (error) => (this.error = error));
    this.ws.on('close', (code, reason) => {
      this.end = { code, reason: reason.toString() };
      this.waiting();
    });
  }

  /** Opens one; with a subprotocol it also waits for its `connected` frame. */
  static async open(url, protocol) {
    const socket = new Socket(url, protocol ? [protocol] : []);
    await within(PATIENCE_MS, new Promise((resolve, reject) => {
      socket.ws.once('open', resolve);
      socket.ws.once('error', reject);
    }), 'a socket opens');
    if (protocol) socket.connected = await socket.next((frame) => frame.event === 'connected');
    return socket;
  }

  take(data) {
    const isJson = this.ws.protocol.includes('json') && typeof data === 'string';
    this.frames.push(isJson ? JSON.parse(data) : data);
    this.waiting();
  }

  /** Takes frames up to the first that is wanted, and returns that one. */
  async next(wanted) {
    return (await this.upTo(wanted)).at(-1);
  }

  /** Takes frames up to the first that is wanted, and returns them all. */
  async upTo(wanted) {
    const taken = [];
    while (taken.length === 0 || !wanted(taken.at(-1))) {
      if (this.frames.length > 0) taken.push(this.frames.shift());
      else if (this.end) throw new Error(`closed meanwhile: ${JSON.stringify(this.end)}`);
      else await within(PATIENCE_MS, new Promise((resolve) => (this.waiting = resolve)), `${wanted}`);
    }
    return taken;
  }

  /** How the other side closed it. */
  async closed() {
    while (!this.end) await within(PATIENCE_MS, new Promise((resolve) => (this.waiting = resolve)), 'a close');
    return this.end;
  }

  send(frame) {
    this.ws.send(JSON.stringify(frame));
  }
}

/** A line between a client and its server that can be cut. */
class Relay {
  /** A relay to the host and port of `url`. */
  static async to(url) {
    const relay = new Relay();
    const { hostname, port } = new URL(url.replace(/^ws/, 'http'));
    relay.sockets = new Set();
    relay.refuses = false;
    relay.server = net.createServer((near) => relay.join(near, net.connect(Number(port), hostname)));
    await new Promise((resolve) => relay.server.listen(0, '127.0.0.1', resolve));
    relay.server.unref();
    return relay;
  }

  join(near, far) {
    for (const [socket, other] of [[near, far], [far, near]]) {
      this.sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => this.sockets.delete(socket) && other.destroy());
      socket.pipe(other);
    }
    if (this.refuses) this.cut();
  }

  /** The same URL through this line. */
  through(url) {
    return url.replace(/\/\/[^/]+/, `//127.0.0.1:${this.server.address().port}`);
  }

  /** Cuts all connections without a word. */
  cut() {
    this.sockets.forEach((socket) => socket.resetAndDestroy());
  }
}

/** Lines that the harness writes. */
const orders = () => readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

module.exports = { assert, check, given, main, orders, pause, Relay, say, service, Socket, until, within };
