// What all peers in Node answer besides messages: a collection of garbage, so that only what connections need is measured.
"use strict";

exports.settle = () => {
  for (let round = 0; round < 3; round += 1) global.gc();
};

exports.listening = (port) => process.stdout.write(JSON.stringify({ port }) + "\n");

// The benchmark ends a server by closing its standard input.
process.stdin.on("end", () => process.exit(0)).resume();

// A body posted to /settle collects garbage; any other goes to everybody, through `publish(text)`.
exports.http = (publish) => (request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    if (request.url === "/settle") exports.settle();
    else publish(Buffer.concat(parts).toString());
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
};
