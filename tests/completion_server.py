"""A small server of the OpenAI interface, whose answers are functions of prompt and seed."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def echo(prompt: str, body: dict[str, Any]) -> str:
    """The prompt's last line and the seed."""
    return f" {prompt.splitlines()[-1]} said {body['seed']}\nand more"


class CompletionServer:
    """Serves until the end of the block.

    Args:
        answer: (prompt, request) -> text.
        trouble: number of the request, from 0 -> (status, content) in place of an answer, or None.
        seconds: that every answer takes.
    """

    def __init__(
        self,
        answer: Callable[[str, dict[str, Any]], str] = echo,
        trouble: Callable[[int], tuple[int, str] | None] = lambda number: None,
        seconds: float = 0.0,
    ) -> None:
        self.answer, self.trouble, self.seconds = answer, trouble, seconds
        self.requests: list[dict[str, Any]] = []  # path, headers and body of each
        self.lock = threading.Lock()
        self.flying = self.most_flying = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number = len(self.requests)
            self.requests.append(
                {"path": handler.path, "headers": dict(handler.headers), "body": body}
            )
            self.flying += 1
            self.most_flying = max(self.flying, self.most_flying)
        time.sleep(self.seconds)
        status, content = self.trouble(number) or (200, self.reply(body))
        with self.lock:
            self.flying -= 1
        try:
            handler.send_response(status)
            handler.end_headers()
            handler.wfile.write(content.encode())
        except OSError:  # the client did not wait
            pass

    def reply(self, body: dict[str, Any]) -> str:
        if "messages" in body:
            text = self.answer(body["messages"][-1]["content"], body)
            return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
        text = self.answer(body["prompt"], body)
        for stop in body.get("stop", []):
            text = text.partition(stop)[0]
        return json.dumps({"choices": [{"text": text}]})

    def __enter__(self) -> "CompletionServer":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
