// uWebSockets.js: every body that is posted is published to the topic that all connections follow.
"use strict";

const uws = require("@trufflesuite/uws-js-unofficial");
const { listening, settle } = require("./settle");

if (!uws.H3App) throw new Error("the native build of uWebSockets.js does not fit this Node: use Node 16, 18 or 20 on x86-64");

const app = uws.App();
app.ws("/*", { open: (socket) => socket.subscribe("room"), message: () => {} });
app.post("/*", (response, request) => {
  const path = request.getUrl();
  let body = Buffer.alloc(0);
  response.onAborted(() => {});
  response.onData((part, last) => {
    body = Buffer.concat([body, Buffer.from(part)]);
    if (!last) return;
    if (path === "/settle") settle();
    else app.publish("room", body.toString());
    response.writeStatus("202 Accepted").end();
  });
});
app.listen("127.0.0.1", 0, (socket) => listening(uws.us_socket_local_port(socket)));
