# What the tests host: rows in SQLite or PostgreSQL, and what it finds around it.
import json, os, sqlite3, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Like many programs it helps itself when it is told of no database.
FILE = os.environ.get("DATABASE_FILE", None if "PGHOST" in os.environ else "rows.db")

def psql(sql, *more):
    words = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *more]
    done = subprocess.run(words, input=sql, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()

def do(sql, text=None):
    if FILE is None:
        return psql(sql.replace("?", ":'text'"), "-v", f"text={text}")
    db = sqlite3.connect(FILE, timeout=10)
    with db:
        rows = [row[0] for row in db.execute(sql, () if text is None else (text,))]
    db.close()
    return rows

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/status":
            return self.say(200, "")
        if self.path == "/release":
            return self.say(200, open("release.txt").read().strip())
        if self.path.startswith("/env/"):
            return self.say(200, os.environ.get(self.path[5:]))
        if self.path == "/rows":
            return self.say(200, do("select text from rows order by id"))
        self.say(404, "not here")

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
        do("insert into rows (text) values (?)", text)
        self.say(201, text)

    def log_message(self, *args):
        pass

if os.path.exists("broken.txt"):
    print("this release is broken", flush=True)
    sys.exit(3)
key = "serial primary key" if FILE is None else "integer primary key"
do(f"create table if not exists rows (id {key}, text text)")
print("listening", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
