// An unmodified azure-mobile-apps back end with one table, on the database that its environment names.
// MODULES: where its packages are installed, because a release holds scripts only.
const { createRequire } = require("module");
const load = createRequire((process.env.MODULES || __dirname) + "/");
const express = load("express");
const mobileApps = load("azure-mobile-apps");
const postgres = require("./postgres");

const isPostgres = (process.env.DATABASE_URL || "").startsWith("postgres:");
const data = isPostgres
    ? { provider: () => postgres(new (load("pg").Pool)({ connectionString: process.env.DATABASE_URL, max: 4 })) }
    : { provider: "sqlite", filename: process.env.DATABASE_FILE };
const app = express();
const mobile = mobileApps({ data, logging: { level: "error" }, homePage: false });
mobile.tables.add("todoitem", { columns: { text: "string", complete: "boolean" } });
// What clients may ask that is no table: which region answers.
app.get("/where", (request, response) => response.json({ region: process.env.FARSHORE_REGION || null, pid: process.pid }));
app.get("/status", (request, response) => response.status(200).end());
mobile.tables.initialize().then(
    () => {
        app.use(mobile);
        app.listen(process.env.PORT, "127.0.0.1");
    },
    (error) => {
        console.error(error);
        process.exit(1);
    },
);
