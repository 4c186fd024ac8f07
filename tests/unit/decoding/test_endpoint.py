"""Text from a server: both interfaces, order, seeds, retries, timeouts and clear errors."""

import contextlib
import json
import socket
import threading

import pytest

from common.config import UserError, load
from common.data.samplers import sample_rng
from common.decoding import endpoint
from common.decoding.endpoint import EndpointGenerator
from common.decoding.generators import generator_settings, text_generator
from common.decoding.options import Policy, ServerConfig
from common.decoding.prompts import Prompt
from tests.completion_server import CompletionServer

POLICY = Policy("nucleus", temperature=0.7, top_p=0.8)
PROMPTS = [Prompt(f"few shots\nrow {i}") for i in range(9)]


def streams(count=9, seed=0):
    return [sample_rng(seed, 0, i) for i in range(count)]


def config(server, **options):
    return ServerConfig(server.url, **{"retry_seconds": 0.01, "retries": 2, **options})


def ask(server, prompts=PROMPTS, policy=POLICY, stop=None, **options):
    generate = EndpointGenerator(config(server, **options), "small", policy, stop)
    return generate(prompts, streams(len(prompts)), 12)


def test_completions_in_order_with_each_row_s_seed():
    seeds = [int(rng.integers(2**31)) for rng in streams()]
    with CompletionServer(seconds=0.02) as server:
        actual = ask(server, stop="\n", requests=3)
    assert actual == [f" row {i} said {seed}" for i, seed in enumerate(seeds)]
    assert server.most_flying == 3
    request = next(r for r in server.requests if r["body"]["seed"] == seeds[4])
    assert request["path"] == "/v1/completions"
    assert request["body"] == {
        "model": "small",
        "prompt": "few shots\nrow 4",
        "temperature": 0.7,
        "top_p": 0.8,
        "max_tokens": 12,
        "seed": seeds[4],
        "stop": ["\n"],
    }
    assert "Authorization" not in request["headers"]


def test_what_is_begun_is_continued_by_completions_and_answered_by_chat():
    prompt = Prompt("List two towns.", '["', turn=True)
    with CompletionServer(lambda prompt, _: f'{prompt[-2:]}Rome"]') as server:
        assert ask(server, [prompt]) == ['["["Rome"]']
        assert server.requests[0]["body"]["prompt"] == 'List two towns.\n\nAnswer:\n["'
        assert ask(server, [prompt], api="chat") == ['s.Rome"]']
    chat = server.requests[1]
    assert chat["path"] == "/v1/chat/completions"
    assert chat["body"]["messages"] == [{"role": "user", "content": "List two towns."}]
    assert "prompt" not in chat["body"]


def test_limits_per_row_and_other_policies():
    with CompletionServer() as server:
        generate = EndpointGenerator(config(server), "m", Policy("top_k", top_k=7))
        generate(PROMPTS[:2], streams(2), [3, 9])
        ask(server, PROMPTS[:1], Policy("greedy"))
    bodies = [request["body"] for request in server.requests]
    assert {body["prompt"][-1]: body["max_tokens"] for body in bodies[:2]} == {"0": 3, "1": 9}
    assert (bodies[0]["top_k"], "top_p" in bodies[0]) == (7, False)
    assert (bodies[2]["temperature"], "top_p" in bodies[2]) == (0.0, False)
    with pytest.raises(UserError, match="cannot decode by typical"):
        EndpointGenerator(ServerConfig("http://x"), "m", Policy("typical"))


@pytest.mark.parametrize(
    "option", [{"no_repeat_ngram": 2}, {"repetition_penalty": 1.2}, {"min_new_tokens": 3}]
)
def test_options_that_a_server_is_not_asked_for_are_refused(option):
    """They had no effect, and the manifest named them."""
    with pytest.raises(UserError, match="no_repeat_ngram=0, repetition_penalty=1 and min_new_to"):
        EndpointGenerator(ServerConfig("http://x"), "m", Policy("greedy", **option))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(status, capsys):
    with CompletionServer(trouble=lambda n: (status, "busy") if n < 2 else None) as server:
        actual = ask(server, PROMPTS[:1])
    assert actual[0].startswith(" row 0")
    assert len(server.requests) == 3
    assert f"answered {status}: busy; trying again" in capsys.readouterr().err


def test_a_lasting_failure_says_that_the_work_is_kept():
    with CompletionServer(trouble=lambda n: (500, '{"error": {"message": "no memory"}}')) as server:
        with pytest.raises(
            UserError, match=r"answered 500: no memory, in 3 attempts.*stays: start"
        ):
            ask(server, PROMPTS[:1])
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "hint"),
    [(400, "context is 8"), (401, "api_key_variable"), (404, "usually ends in /v1")],
)
def test_a_refused_request_is_not_repeated(status, hint):
    with CompletionServer(trouble=lambda n: (status, '{"message": "context is 8"}')) as server:
        with pytest.raises(UserError, match=f"answered {status}: .*{hint}"):
            ask(server, PROMPTS[:1])
        assert len(server.requests) == 1


def test_no_answer_in_time():
    with CompletionServer(seconds=0.6) as server:
        with pytest.raises(
            UserError, match=r"no answer within generator\.timeout=0\.1 s, in 2 att"
        ):
            ask(server, PROMPTS[:1], timeout=0.1, retries=1)
        assert len(server.requests) == 2


def test_a_refused_connection_and_an_unknown_host():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for address, words in (
        (url, "refused the connection"),
        ("http://no.invalid", "not a known host"),
    ):
        server = ServerConfig(address, retries=1, retry_seconds=0.01)
        with pytest.raises(UserError, match=rf"{words}.*, in 2 attempts"):
            EndpointGenerator(server, "m", POLICY)(PROMPTS[:1], streams(1), 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>", "did not answer JSON"),
        ('{"choices": []}', r"without choices\[0\]\.text"),
        ('{"choices": [{"message": {}}]}', r"without choices\[0\]\.text"),
        ("[]", "without choices"),
    ],
)
def test_something_else_than_an_answer(content, message):
    with (
        CompletionServer(trouble=lambda n: (200, content)) as server,
        pytest.raises(UserError, match=message),
    ):
        ask(server, PROMPTS[:1])


@pytest.mark.parametrize("text", ["", "  \n", None, 5, ["a"]])
def test_answers_that_are_no_text_are_empty_and_too_many_of_them_stop(text):
    """They counted as computed rows: "None" and "5" became captions."""

    def replies(count):
        content = {"choices": [{"text": text if count in (2, 5) else f" row {count}"}]}
        return 200, json.dumps(content)

    with CompletionServer(trouble=replies) as server:
        actual = ask(server, requests=1, max_empty=0.3)
        assert [len(a) > 0 for a in actual] == [True, True, False] * 2 + [True] * 3
    with (
        CompletionServer(trouble=replies) as server,
        pytest.raises(UserError, match=r"answers of http.*2 of 10 samples are corrupt"),
    ):
        ask(server, PROMPTS * 2, requests=1, max_empty=0.1)
    with (
        CompletionServer(
            trouble=lambda _: (200, json.dumps({"choices": [{"text": text}]}))
        ) as none,
        pytest.raises(UserError, match="gave no text in any of 6 answers"),
    ):
        ask(none, PROMPTS[:6], max_empty=1.0)


class Drip:
    """A server that sends its answer byte by byte, without end."""

    def __init__(self, head):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.head, self.end = head, threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            connection.sendall(self.head)
            while not self.end.wait(0.02):
                connection.sendall(b" ")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end.set()
        self.listener.close()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n{"])
def test_an_answer_that_drips_is_hung_up_on(head):
    with Drip(head) as server, pytest.raises(UserError, match=r"no answer within .*timeout=0\.3 s"):
        ask(server, PROMPTS[:1], timeout=0.3, retries=0)


def test_an_answer_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST_REPLY", 1000)
    with (
        CompletionServer(trouble=lambda _: (200, "x" * 1001)) as server,
        pytest.raises(UserError, match="answered more than 1000 bytes"),
    ):
        ask(server, PROMPTS[:1])


@pytest.mark.parametrize("address", ["http://me:pw@x/v1", "http://x/v1?key=pw", "http://x/v1#pw"])
def test_secrets_in_an_address_are_refused_and_not_repeated(address):
    with pytest.raises(ValueError, match="api_key_variable") as error:
        ServerConfig(endpoint=address)
    assert "pw" not in str(error.value)


def test_after_an_error_nothing_further_is_asked():
    with CompletionServer(trouble=lambda n: (400, "no"), seconds=0.05) as server:
        with pytest.raises(UserError):
            ask(server, PROMPTS * 5, requests=2)
        assert len(server.requests) <= 6


def test_the_key_comes_from_the_named_variable(monkeypatch):
    with CompletionServer() as server:
        monkeypatch.delenv("MY_KEY", raising=False)
        with pytest.raises(UserError, match="MY_KEY: this environment variable is not set"):
            ask(server, api_key_variable="MY_KEY")
        monkeypatch.setenv("MY_KEY", "secret")
        ask(server, PROMPTS[:1], api_key_variable="MY_KEY")
    assert server.requests[0]["headers"]["Authorization"] == "Bearer secret"
    named = ServerConfig(server.url, api_key_variable="MY_KEY")
    assert "secret" not in json.dumps(generator_settings("m", POLICY, named)) + repr(named)


def test_the_factory_takes_the_server_and_loads_nothing():
    with CompletionServer() as server:
        generate = text_generator("bundled:nothing", POLICY, config(server, served_model="big"))
        generate(PROMPTS[:1], streams(1), 2)
    assert server.requests[0]["body"]["model"] == "big"


def test_settings_name_model_and_kind_but_not_the_address():
    local = generator_settings("m", POLICY, ServerConfig())
    here, there = (
        generator_settings("m", POLICY, ServerConfig(f"http://{h}:1")) for h in ("a", "b")
    )
    assert here == there
    assert here != local
    chat = ServerConfig("http://a:1", api="chat", served_model="n")
    assert generator_settings("m", POLICY, chat)["model"] == "n"
    assert generator_settings("m", POLICY, chat)["generator"] == "endpoint, chat"


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ValueError, match="generator"):
        ServerConfig(endpoint="localhost:8000")


@pytest.mark.parametrize("option", ["requests=0", "timeout=0", "retries=-1"])
def test_wrong_options_are_refused(option):
    from projects.laclip.config import Config

    with pytest.raises(UserError, match=rf"generator\.{option.split('=')[0]} must"):
        load(Config, "laclip", "smoke", [f"generator.{option}"])
