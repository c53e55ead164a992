// A small todo service: what an app service of Farshore can be. Needs nothing but Node 22.13 or later.
//
//   GET /todos            all of them          POST /todos {"id","text"}     a new one; the same id again changes nothing
//   PATCH /todos/ID {"done":true}              DELETE /todos/ID              GET /status   whether it is up
//
// Farshore tells it where to listen (PORT) and where its database is (DATABASE_FILE).
const http = require("node:http");
const { randomUUID } = require("node:crypto");
const { DatabaseSync } = sqlite();

const database = new DatabaseSync(process.env.DATABASE_FILE || "todo.db");
database.exec("pragma busy_timeout = 5000");
database.exec("create table if not exists todos (id text primary key, text text not null, done integer not null default 0)");
const all = database.prepare("select id, text, done from todos order by rowid");
const one = database.prepare("select id, text, done from todos where id = ?");
const add = database.prepare("insert into todos (id, text) values (?, ?) on conflict (id) do nothing");
const mark = database.prepare("update todos set done = ? where id = ?");
const remove = database.prepare("delete from todos where id = ?");
const shown = (row) => row && { id: row.id, text: row.text, done: row.done === 1 };

/** Node's own SQLite. Without it one line says what to do. */
function sqlite() {
    try {
        return require("node:sqlite");
    } catch (error) {
        console.error(`Error: ${error.message}: this needs Node 22.13 or later, and this is ${process.version}; farshore example todo is the same, built in`);
        return process.exit(1);
    }
}

/** What is answered: a status and a value. */
function answer(method, id, body) {
    if (method === "GET" && id === undefined) return [200, all.all().map(shown)];
    if (method === "POST" && id === undefined) {
        const { id: wanted = randomUUID(), text } = body;
        if (typeof text !== "string" || text === "") return [400, { error: "text is missing" }];
        add.run(String(wanted), text);
        return [201, shown(one.get(String(wanted)))];
    }
    if (id !== undefined && one.get(id) === undefined) return [404, { error: `there is no todo ${id}` }];
    if (method === "GET") return [200, shown(one.get(id))];
    if (method === "PATCH") {
        mark.run(body.done === true ? 1 : 0, id);
        return [200, shown(one.get(id))];
    }
    if (method === "DELETE") {
        remove.run(id);
        return [204, undefined];
    }
    return [405, { error: `${method} is not known here` }];
}

/** The body of a request as JSON. */
async function read(request) {
    let text = "";
    for await (const piece of request) {
        text += piece;
        if (text.length > 64 * 1024) throw new SyntaxError("too long");
    }
    return text === "" ? {} : JSON.parse(text);
}

const server = http.createServer(async (request, response) => {
    const [, first, id] = new URL(request.url, "http://todo").pathname.split("/");
    if (first === "status") return response.writeHead(200).end();
    if (first !== "todos") return response.writeHead(404).end();
    const reply = (status, value) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(value === undefined ? undefined : JSON.stringify(value));
    };
    try {
        reply(...answer(request.method, id || undefined, await read(request)));
    } catch (error) {
        reply(error instanceof SyntaxError ? 400 : 500, { error: error.message });
    }
});
server.listen(process.env.PORT || 8080, "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
