// ws: every body that is posted goes to all connections, as its documentation shows for broadcasts.
"use strict";

const http = require("node:http");
const { WebSocket, WebSocketServer } = require("ws");
const { http: take, listening } = require("./settle");

const server = http.createServer();
const sockets = new WebSocketServer({ server });
sockets.on("connection", (socket) => socket.on("error", () => {}));
server.on(
  "request",
  take((text) => {
    for (const socket of sockets.clients) {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    }
  }),
);
server.listen(0, "127.0.0.1", () => listening(server.address().port));
