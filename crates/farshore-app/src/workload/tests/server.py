# What the tests host: rows in SQLite, and what it finds around it.
import json, os, sqlite3, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def database():
    db = sqlite3.connect(os.environ["DATABASE_FILE"], timeout=10)
    db.execute("create table if not exists rows (id integer primary key, text text)")
    return db

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
            db = database()
            rows = [text for (text,) in db.execute("select text from rows order by id")]
            db.close()
            return self.say(200, rows)
        self.say(404, "not here")

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
        db = database()
        with db:
            db.execute("insert into rows (text) values (?)", (text,))
        db.close()
        self.say(201, text)

    def log_message(self, *args):
        pass

if os.path.exists("broken.txt"):
    print("this release is broken", flush=True)
    sys.exit(3)
database().close()
print("listening", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
