// The official client of azure-mobile-apps, told what to do by lines of JSON, answering each with one.
//   node client.js URL   with  KEY (application key), DNS (address of the server that knows the URL's name), MODULES (its packages)
const dns = require("dns");
const http = require("http");
const readline = require("readline");
const { createRequire } = require("module");
const load = createRequire((process.env.MODULES || __dirname) + "/");

// The few things of a browser that the client needs. Names are asked anew for each request.
const resolver = new dns.Resolver({ timeout: 1000, tries: 2 });
if (process.env.DNS) resolver.setServers([process.env.DNS]);
function lookup(host, options, done) {
    if (typeof options === "function") [options, done] = [{}, options];
    resolver.resolve4(host, (error, found) => {
        if (error) return done(error);
        return options.all ? done(null, found.map((address) => ({ address, family: 4 }))) : done(null, found[0], 4);
    });
}
class XMLHttpRequest {
    constructor() {
        Object.assign(this, { readyState: 0, status: 0, responseText: "", withCredentials: false, sent: {}, received: {} });
    }
    open(method, url) {
        Object.assign(this, { method, url, readyState: 1 });
    }
    setRequestHeader(name, value) {
        this.sent[name] = value;
    }
    getResponseHeader(name) {
        const value = this.received[name.toLowerCase()];
        return value === undefined ? null : String(value);
    }
    send(body) {
        const lookupOf = process.env.DNS ? { lookup } : {};
        const request = http.request(this.url, { method: this.method, headers: this.sent, timeout: 10000, ...lookupOf }, (response) => {
            this.received = response.headers;
            this.status = response.statusCode;
            response.setEncoding("utf8");
            response.on("data", (text) => (this.responseText += text));
            response.on("end", () => this.finish());
            response.on("error", () => this.finish(0));
        });
        request.on("timeout", () => request.destroy(new Error("no answer in time")));
        request.on("error", () => this.finish(0));
        request.end(body || undefined);
    }
    finish(status) {
        if (this.readyState === 4) return;
        if (status !== undefined) this.status = status;
        this.readyState = 4;
        this.onreadystatechange();
    }
}
global.XMLHttpRequest = XMLHttpRequest;
global.window = global.window || { location: { protocol: "http:" } };

const { MobileServiceClient } = load("azure-mobile-apps-client");
const key = process.env.KEY;
const plain = new MobileServiceClient(process.argv[2]);
// The key as the gateway wants it: the client lets each request be changed on its way.
const service = plain.withFilter((request, next, done) => {
    if (key) request.headers["X-ZUMO-APPLICATION"] = key;
    next(request, done);
});
const table = service.getTable("todoitem");
const ways = {
    insert: ({ item }) => table.insert(item),
    read: () => table.read(),
    lookup: ({ id }) => table.lookup(id),
    update: ({ item }) => table.update(item),
    delete: ({ id }) => table.del({ id }),
    where: () => service.invokeApi("../where", { method: "get" }).then((answer) => answer.result),
};
async function answer(line) {
    const asked = JSON.parse(line);
    try {
        return { ok: true, value: await ways[asked.do](asked) };
    } catch (error) {
        return { ok: false, status: error.request ? error.request.status : 0, why: error.message };
    }
}
(async () => {
    for await (const line of readline.createInterface({ input: process.stdin })) {
        process.stdout.write(JSON.stringify(await answer(line)) + "\n");
    }
})();
