"""Text from a server of the OpenAI interface: vLLM, SGLang, llama.cpp, or a hosted one."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.samplers import Rng
from common.decoding.options import Policy, ServerConfig
from common.decoding.prompts import Prompt, plain_turn

STRATEGIES = ("greedy", "ancestral", "nucleus", "top_k")  # what the interface can be asked for
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # a later attempt may succeed
LONGEST_WAIT = 60.0  # seconds between two attempts
LARGEST_REPLY = 1 << 24  # bytes
JUDGED_FROM = 10  # answers before the share of those without text is judged
_SEED_LIMIT = 2**31


class EndpointGenerator:
    """Answers of a server, several requests at a time, in the order of the prompts.

    Each request carries a seed from its row's stream. Whether a server gives the same text for the
    same seed is its own affair; vLLM, SGLang and llama.cpp do on one machine and version, as far as
    batching does not change their rounding.

    Args:
        server: address, timeouts and retries.
        model: name of the model at the server.
        policy: greedy, ancestral, nucleus or top_k (which is not a part of OpenAI's own interface).
        stop: text that ends an answer.

    Raises:
        UserError: a policy or an option of it that the interface lacks, or a key variable that is
            not set.
    """

    def __init__(
        self, server: ServerConfig, model: str, policy: Policy, stop: str | None = None
    ) -> None:
        if policy.strategy not in STRATEGIES:
            raise UserError(
                f"generator.endpoint cannot decode by {policy.strategy}: a server takes "
                f"{', '.join(STRATEGIES)}; leave the endpoint out for a local model"
            )
        if policy.looks_back or policy.min_new_tokens:
            raise UserError(
                "a server is not asked to forbid repetitions or an early end, which the interface "
                "lacks: set no_repeat_ngram=0, repetition_penalty=1 and min_new_tokens=0, or leave "
                "generator.endpoint out for a local model"
            )
        self.server, self.address = server, urlsplit(str(server.endpoint))
        path = self.address.path.rstrip("/")
        self.path = f"{path}/chat/completions" if server.api == "chat" else f"{path}/completions"
        self.fixed = {"model": model, **_sampling(policy), **({"stop": [stop]} if stop else {})}
        self.headers = {"Content-Type": "application/json"} | _authorization(server)
        self.counter = CorruptCounter(
            f"answers of {self.url}", max_fraction=server.max_empty, min_seen=JUDGED_FROM
        )
        self._said: set[str] = set()

    def __call__(
        self, prompts: Sequence[Prompt], rngs: Sequence[Rng], max_new_tokens: int | Sequence[int]
    ) -> list[str]:
        """See `common.decoding.prompts.TextGenerator`.

        An answer without text is empty, and counted.

        Raises:
            UserError: the server cannot be reached, refuses a request, or answers something else;
                all answers of a call, or too many so far, are without text.
        """
        count = len(prompts)
        limits = [max_new_tokens] * count if isinstance(max_new_tokens, int) else max_new_tokens
        seeds = [int(rng.integers(_SEED_LIMIT)) for rng in rngs]
        pool = ThreadPoolExecutor(self.server.requests)
        try:
            answers = [self._counted(a) for a in pool.map(self.answer, prompts, seeds, limits)]
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing further is asked
        if count and not any(answers):
            raise UserError(
                f"{self.url} gave no text in any of {count} answers: check generator.served_model,"
                " generator.api and the number of new tokens"
            )
        return [
            ("" if self.server.api == "chat" else prompt.begun) + (text or "")
            for prompt, text in zip(prompts, answers, strict=True)
        ]

    def _counted(self, text: Any) -> str | None:
        """An answer, None if it is no text."""
        if isinstance(text, str) and text.strip():
            self.counter.good()
            return text
        self.counter.bad("an answer", f"no text but {json.dumps(text)[:40]}")
        return None

    def answer(self, prompt: Prompt, seed: int, max_new_tokens: int) -> Any:
        """What one reply holds in place of the answer's text."""
        body = {**self.fixed, "seed": seed, "max_tokens": int(max_new_tokens)}
        if self.server.api == "chat":
            # an answer cannot be begun for a chat server: it gives the whole of it
            reply = self._ask({**body, "messages": [{"role": "user", "content": prompt.text}]})
            return _field(reply, self.url, "message", "content")
        text = plain_turn(prompt) if prompt.turn else prompt.text + prompt.begun
        reply = self._ask({**body, "prompt": text})
        return _field(reply, self.url, "text")

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.address.scheme}://{self.address.netloc}{self.path}"

    def _ask(self, body: dict[str, Any]) -> Any:
        """Parsed reply; waits and tries again where that may help."""
        content = json.dumps(body).encode()
        wait, reason = self.server.retry_seconds, ""
        for attempt in range(self.server.retries + 1):
            if attempt:
                self._say(reason)
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
            try:
                status, after, reply = self._post(content)
            except TimeoutError:
                reason = f"gave no answer within generator.timeout={self.server.timeout:g} s"
                continue
            except ssl.SSLError as error:
                raise UserError(f"{self.url}: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                reason = _unreachable(error)
                continue
            if status == 200:
                return _parsed(reply, self.url)
            reason = f"answered {status}: {_message(reply)}"
            if status not in AGAIN:
                raise UserError(f"{self.url} {reason}{_remedy(status)}")
            wait = max(wait, after)
        raise UserError(
            f"{self.url} {reason}, in {self.server.retries + 1} attempts. What is finished stays: "
            "start the same command again when the server is up"
        )

    def _say(self, reason: str) -> None:
        """Print once why requests are repeated, so that a run that waits does not seem to hang."""
        if reason not in self._said:
            self._said.add(reason)
            sys.stderr.write(f"{self.url} {reason}; trying again\n")

    def _post(self, content: bytes) -> tuple[int, float, bytes]:
        """Status, seconds that the server wants to be left alone, and content.

        Raises:
            TimeoutError: the whole answer was not there in time, however steadily it came.
            UserError: it is larger than any answer.
        """
        secure = self.address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(
            self.address.hostname or "", self.address.port, timeout=self.server.timeout
        )
        connection.connect()
        opened, late = connection.sock, threading.Event()  # a response takes the socket over

        def hang_up() -> None:
            late.set()
            with contextlib.suppress(OSError):  # closed already
                opened.shutdown(socket.SHUT_RDWR)

        # the time-out of a socket is that of one read, which a server that drips never exceeds
        deadline = threading.Timer(self.server.timeout, hang_up)
        deadline.daemon = True
        try:
            deadline.start()
            connection.request("POST", self.path, content, self.headers)
            response = connection.getresponse()
            after = response.getheader("Retry-After") or ""
            reply = response.read(LARGEST_REPLY + 1)
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise TimeoutError from error
            raise
        finally:
            deadline.cancel()
            connection.close()
        if late.is_set():
            raise TimeoutError
        if len(reply) > LARGEST_REPLY:
            raise UserError(
                f"{self.url} answered more than {LARGEST_REPLY} bytes: is this the API?"
            )
        return response.status, float(after) if after.isdigit() else 0.0, reply


def _sampling(policy: Policy) -> dict[str, Any]:
    if policy.strategy == "greedy":
        return {"temperature": 0.0}
    chosen: dict[str, Any] = {"temperature": policy.temperature}
    if policy.strategy == "nucleus":
        chosen["top_p"] = policy.top_p
    if policy.strategy == "top_k":
        chosen["top_k"] = policy.top_k
    return chosen


def _authorization(server: ServerConfig) -> dict[str, str]:
    name = server.api_key_variable
    if name is None:
        return {}
    if not os.environ.get(name):
        raise UserError(
            f"generator.api_key_variable={name}: this environment variable is not set; export it "
            "with the server's key"
        )
    return {"Authorization": f"Bearer {os.environ[name]}"}


def _parsed(reply: bytes, url: str) -> Any:
    try:
        return json.loads(reply)
    except ValueError:
        raise UserError(f"{url} did not answer JSON but {reply[:80]!r}: is this the API?") from None


def _field(reply: Any, url: str, *path: str) -> Any:
    """A field of the reply's first choice."""
    try:
        value = reply["choices"][0]
        for name in path:
            value = value[name]
        return value
    except (KeyError, IndexError, TypeError):
        raise UserError(
            f"{url} answered without choices[0].{'.'.join(path)}: {json.dumps(reply)[:200]}"
        ) from None


def _message(reply: bytes) -> str:
    """The server's own words."""
    try:
        content = json.loads(reply)
        error = content.get("error", content)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
    except (ValueError, AttributeError):
        return reply[:200].decode("utf-8", "replace").strip()


def _unreachable(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection (no server there)"
    if isinstance(error, socket.gaierror):
        return "is not a known host"
    return f"broke the connection off ({type(error).__name__}: {error})"


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "; name the environment variable of the key in generator.api_key_variable"
    if status == 404:
        return (
            "; check generator.endpoint (it usually ends in /v1) and the model's name there, "
            "generator.served_model"
        )
    return ""
