// socket.io: every body that is posted is emitted to all connections; WebSocket only.
"use strict";

const http = require("node:http");
const { Server } = require("socket.io");
const { http: take, listening } = require("./settle");

const server = http.createServer();
const sockets = new Server({ transports: ["websocket"], serveClient: false });
const answer = take((text) => sockets.emit("message", text));
server.on("request", (request, response) => {
  if (!request.url.startsWith("/socket.io/")) answer(request, response);
});
sockets.attach(server);
server.listen(0, "127.0.0.1", () => listening(server.address().port));
