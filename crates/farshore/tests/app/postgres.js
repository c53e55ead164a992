// A data provider for azure-mobile-apps that keeps a table in PostgreSQL: what a user of that database would write.
module.exports = (pool) => {
    pool.on("error", (error) => console.error("a connection to the database was lost:", error.message));
    return (table) => {
        const name = `"${table.name}"`;
        const columns = { id: "text primary key", text: "text", complete: "boolean" };
        const stamps = { createdAt: "timestamptz default now()", updatedAt: "timestamptz default now()", version: "bigserial" };
        const rows = (found) => found.rows.map((row) => ({ ...row, version: Buffer.from(String(row.version)).toString("base64") }));
        return {
            async initialize() {
                const all = Object.entries({ ...columns, ...stamps }).map(([column, type]) => `"${column}" ${type}`);
                await pool.query(`create table if not exists ${name} (${all.join(", ")})`);
            },
            async read(query) {
                const id = idOf(query);
                const found = id
                    ? await pool.query(`select * from ${name} where id = $1`, [id])
                    : await pool.query(`select * from ${name} order by "createdAt", id`);
                return rows(found);
            },
            async insert(item) {
                const id = item.id || require("crypto").randomUUID();
                const found = await pool.query(
                    `insert into ${name} (id, text, complete) values ($1, $2, $3) returning *`,
                    [id, item.text, item.complete === true],
                );
                return rows(found)[0];
            },
            async update(item) {
                const found = await pool.query(
                    `update ${name} set text = coalesce($2, text), complete = coalesce($3, complete), "updatedAt" = now()
                     where id = $1 returning *`,
                    [item.id, item.text, item.complete],
                );
                return rows(found)[0];
            },
            async delete(query) {
                return rows(await pool.query(`delete from ${name} where id = $1 returning *`, [idOf(query)]))[0];
            },
        };
    };
};

/** The id that a query is about, if it is about one. */
function idOf(query) {
    const { filters } = query.getComponents();
    const text = JSON.stringify(filters || null);
    const found = /"member":"id".*?"value":"([^"]*)"/.exec(text) || /"value":"([^"]*)".*?"member":"id"/.exec(text);
    return found && found[1];
}
