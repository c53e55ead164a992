// A todo service on PostgreSQL, as small as the one that is built in: POST /todos {"id","text"}, GET /todos, GET /status.
const http = require("http");
const { createRequire } = require("module");
const { Pool } = createRequire((process.env.MODULES || __dirname) + "/")("pg");

const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
pool.on("error", (error) => console.error("a connection to the database was lost:", error.message));

async function answer(request, body) {
    if (request.url === "/status") return [200, undefined];
    if (request.method === "POST") {
        const { id, text } = JSON.parse(body);
        await pool.query("insert into todos (id, text) values ($1, $2) on conflict (id) do nothing", [id, text]);
        return [201, { id, text, done: false }];
    }
    return [200, (await pool.query("select id, text, done from todos")).rows];
}

const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const [status, value] = await answer(request, body).catch((error) => [500, { error: error.message }]);
    response.writeHead(status, { "content-type": "application/json" });
    response.end(value === undefined ? undefined : JSON.stringify(value));
});
pool.query("create table if not exists todos (id text primary key, text text not null, done boolean not null default false)").then(
    () => server.listen(process.env.PORT, "127.0.0.1"),
    (error) => {
        console.error(error.message);
        process.exit(1);
    },
);
