"""As much of Label Studio's server as the demo talks to, with its data in a file, so that a second start finds it.

Started like `python -m label_studio.server start ...`; only the port is taken from its arguments.
"""

import json
import os
import sys
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

DATA = Path(os.environ["LABEL_STUDIO_BASE_DATA_DIR"]) / "fake.json"
EMPTY = {"token": "", "projects": [], "tasks": [], "ml": [], "webhooks": [], "environ": {}}


def load() -> dict:
    return json.loads(DATA.read_text()) if DATA.exists() else dict(EMPTY)


def keep(state: dict) -> None:
    DATA.write_text(json.dumps(state))


class Handler(BaseHTTPRequestHandler):
    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_one(self) -> None:
        state, url = load(), urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = url.path.strip("/").split("/")
        if url.path == "/health":
            return self.answer(200, {"status": "UP"})
        if self.headers["Authorization"] != f"Token {state['token']}":
            return self.answer(401, {"detail": "Invalid token."})
        match self.command, parts:
            case "GET", ["api", "current-user", "whoami"]:
                self.answer(200, {"id": 1})
            case "GET", ["api", "projects"]:
                self.answer(200, {"count": len(state["projects"]), "results": state["projects"]})
            case "POST", ["api", "projects"]:
                project = {"id": len(state["projects"]) + 1, **json.loads(body)}
                state["projects"].append(project)
                keep(state)
                self.answer(201, project)
            case "GET", ["api", "tasks"]:
                tasks = [task for task in state["tasks"] if task["project"] == int(query["project"])]
                self.answer(200, {"total": len(tasks), "tasks": tasks})
            case "POST", ["api", "projects", project, "import"]:
                header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                for part in BytesParser(policy=HTTP).parsebytes(header + body).iter_parts():
                    state["tasks"].append({"project": int(project), "name": part.get_filename()})
                keep(state)
                self.answer(201, {"task_count": len(state["tasks"])})
            case "GET", ["api", "ml"]:
                self.answer(200, [ml for ml in state["ml"] if ml["project"] == int(query["project"])])
            case "POST", ["api", "ml"]:
                body_json = json.loads(body)
                state["ml"].append({"id": max((ml["id"] for ml in state["ml"]), default=0) + 1, **body_json})
                state["webhooks"].append({"id": len(state["webhooks"]) + 7, "url": body_json["url"] + "/webhook"})
                keep(state)
                self.answer(201, state["ml"][-1])
            case "GET", ["api", "webhooks"]:
                self.answer(200, state["webhooks"])
            case "DELETE", ["api", ("ml" | "webhooks") as kind, number]:
                state[kind] = [entry for entry in state[kind] if entry["id"] != int(number)]
                keep(state)
                self.answer(204, None)
            case _:
                self.answer(404, {"detail": f"{self.command} {self.path}"})
        return None

    do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    state = load()
    state["token"] = state["token"] or os.environ["LABEL_STUDIO_USER_TOKEN"]
    state["environ"] = dict(os.environ)
    keep(state)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
