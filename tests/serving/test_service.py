"""The application without a socket: every answer, every refusal, and that a refusal touches nobody else."""

import io
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from dsrun.errors import UsageError
from dsrun.serving import uploads
from dsrun.serving.dispatch import Dispatcher
from dsrun.serving.limits import MESSAGE_BYTES, Limits
from dsrun.serving.protocol import FAILED, LIMIT, MALFORMED, STOPPING, TOO_LARGE, WRONG_KIND
from dsrun.serving.service import content_policy, make_app
from tests.serving.services import LIMITS, as_bytes, expected_text, make_service
from tests.serving.speakers import RATE, GatedPool, hearing_of, sound


@pytest.fixture
def serve(tmp_path):
    """A client of a service that ends with the test."""
    services = []

    def make(**options):
        service = make_service(tmp_path, **options)
        services.append(service)
        return service, TestClient(make_app(service))

    yield make
    for service in services:
        service.stop()


def converse(client, *messages, **options):
    """What a stream is answered, and the code it is closed with."""
    answers = []
    with client.websocket_connect("/stream", **options) as socket:
        for message in messages:
            socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        try:
            while True:
                answers.append(socket.receive_json())
        except WebSocketDisconnect as closed:
            return answers, closed.code


def wav(seconds=0.5, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, sound(seconds, seed=1), rate, format="WAV")
    return file.getvalue()


BEGIN = f'{{"sample_rate": {RATE}}}'
END = '{"end": true}'


def test_a_stream_is_told_its_text_in_pieces_and_in_the_end_all_of_it(serve):
    _, client = serve()
    clip = sound(1.5, seed=1)
    content = as_bytes(clip)
    blocks = [content[start : start + 500] for start in range(0, len(content), 500)]
    answers, code = converse(client, BEGIN, *blocks, END)
    assert code == 1000
    assert [answer["is_final"] for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert "".join(answer["new"] for answer in answers) == answers[-1]["text"] == expected_text(clip)
    assert len(answers[-1]["text"]) > 3
    seconds = [answer["seconds"] for answer in answers]
    assert seconds == sorted(seconds)
    assert 1.4 < seconds[-1] <= 1.5


def test_another_rate_is_resampled_as_the_whole_clip_would_be(serve):
    import soxr

    _, client = serve()
    clip = np.frombuffer(as_bytes(sound(1.0, seed=2)), "<i2").astype(np.float32) / np.float32(32768)
    fast = soxr.resample(clip, RATE, 48_000)
    heard = np.frombuffer(as_bytes(fast), "<i2").astype(np.float32) / np.float32(32768)
    content = as_bytes(fast)
    blocks = [content[start : start + 5000] for start in range(0, len(content), 5000)]
    answers, code = converse(client, '{"sample_rate": 48000}', *blocks, END)
    again = soxr.ResampleStream(48_000, RATE, 1, dtype="float32").resample_chunk(heard, last=True)
    assert code == 1000
    assert answers[-1]["text"] == text_of(again)


def text_of(samples):
    """Of samples that are not rounded to 16 bits once more."""
    from tests.serving.speakers import Ear, pool

    ear = Ear()
    with Dispatcher(pool("int8"), hearing_of(pool("int8"))) as dispatcher:
        stream = dispatcher.open(ear.on_text, ear.on_failure)
        stream.push(samples)
        stream.finish()
        assert ear.over.wait(30)
    return ear.text


@pytest.mark.parametrize(
    ("messages", "code", "word"),
    [
        (["nonsense"], MALFORMED, "JSON"),
        (['{"sample_rate": 1}'], MALFORMED, "sample_rate 1"),
        ([b"\0\0"], WRONG_KIND, "binary"),
        ([BEGIN, b"\0"], MALFORMED, "half a sample"),
        ([BEGIN, '{"text": 1}'], WRONG_KIND, "where samples are due"),
        ([BEGIN, bytes(MESSAGE_BYTES + 2)], TOO_LARGE, "at most"),
        ([BEGIN, END], MALFORMED, "shorter than one window"),
        ([BEGIN, b"\0\0", END], MALFORMED, "shorter than one window"),
        ([BEGIN, *[bytes(2 * RATE)] * 6], LIMIT, "longer than 5 s"),
    ],
)
def test_a_stream_that_says_what_cannot_be_is_told_why_and_closed(serve, messages, code, word):
    service, client = serve()
    answers, closed = converse(client, *messages)
    assert closed == code == answers[-1]["code"]
    assert word in answers[-1]["error"]
    assert service.dispatcher.open_streams == 0


def test_a_malformed_stream_leaves_its_neighbour_alone(serve):
    _, client = serve()
    clip = sound(1.0, seed=3)
    content = as_bytes(clip)
    with client.websocket_connect("/stream") as socket:
        socket.send_text(BEGIN)
        socket.send_bytes(content[:4000])
        assert converse(client, BEGIN, b"\0\0\0")[1] == MALFORMED
        socket.send_bytes(content[4000:])
        socket.send_text(END)
        text = ""
        while not (answer := socket.receive_json())["is_final"]:
            text += answer["new"]
    assert answer["text"] == text + answer["new"] == expected_text(clip)


@pytest.mark.parametrize("messages", [[], [BEGIN], [BEGIN, b"\0\0"]])
def test_a_client_that_says_nothing_more_is_dropped(serve, messages):
    service, client = serve(limits=replace(LIMITS, idle_seconds=0.1))
    answers, code = converse(client, *messages)
    assert code == LIMIT
    assert "nothing came for 0.1 s" in answers[-1]["error"]
    assert service.dispatcher.open_streams == 0


def test_a_stream_that_trickles_is_ended_by_the_clock(serve):
    service, client = serve(limits=replace(LIMITS, max_seconds=0.2))
    with client.websocket_connect("/stream") as socket:
        socket.send_text(BEGIN)
        stop = threading.Event()

        def trickle():
            while not stop.wait(0.03):
                socket.send_bytes(b"\0\0")

        thread = threading.Thread(target=trickle)
        thread.start()
        answer = socket.receive_json()
        stop.set()
        thread.join()
    assert answer["code"] == LIMIT
    assert "by the clock" in answer["error"]
    assert service.dispatcher.open_streams == 0


def test_a_client_faster_than_the_network_is_held_back_and_loses_nothing(serve):
    gated = GatedPool()
    service, client = serve(dispatcher=Dispatcher(gated, hearing_of(gated), most_waiting_seconds=0.2).start())
    with client.websocket_connect("/stream") as socket:
        socket.send_text(BEGIN)
        for _ in range(40):
            socket.send_bytes(bytes(2 * RATE // 10))  # 4 s in all
        socket.send_text(END)
        assert gated.begun.acquire(timeout=30)
        (stream,) = service.dispatcher._streams.values()
        assert stream.session.seconds < 1.5  # of 4: the rest waits in the client's socket
        gated.allowed.release(10_000)
        while not (answer := socket.receive_json())["is_final"]:
            pass
    assert answer["seconds"] > 3.9


def test_a_network_that_fails_is_told_and_the_next_stream_is_served(serve):
    gated = GatedPool()
    gated.allowed.release(10_000)
    gated.fails = True
    _, client = serve(dispatcher=Dispatcher(gated, hearing_of(gated)).start())
    answers, code = converse(client, BEGIN, bytes(2 * RATE))
    assert code == FAILED
    assert "RESOURCE_EXHAUSTED" in answers[0]["error"]
    gated.fails = False
    assert converse(client, BEGIN, bytes(2 * RATE), END)[1] == 1000


def test_streams_are_told_when_the_service_stops_and_new_ones_are_refused(serve):
    service, client = serve()
    with client.websocket_connect("/stream") as socket:
        socket.send_text(BEGIN)
        socket.send_bytes(as_bytes(sound(0.6, seed=4)))
        socket.receive_json()
        service.stop()
        while "error" not in (answer := socket.receive_json()):
            pass
    assert answer["code"] == STOPPING
    assert client.get("/health").status_code == 503


def test_a_client_that_begins_when_the_service_has_stopped_is_told_so(serve):
    # Its connection was there already, silent; the threads that it needs are gone.
    service, client = serve()
    with client.websocket_connect("/stream") as socket:
        service.stop()
        socket.send_text(BEGIN)
        assert socket.receive_json()["code"] == STOPPING


def test_a_model_that_cannot_be_streamed_says_so_and_takes_files(serve):
    _, client = serve(dispatcher=None)
    answers, code = converse(client)
    assert code == WRONG_KIND
    assert "bidirectional" in answers[0]["error"]
    health = client.get("/health").json()
    assert health["streams"] is None
    assert "bidirectional" in health["no_streams"]
    assert client.post("/transcribe", content=wav()).json()["text"] == "4000"


# Files.


def test_a_file_is_answered_with_its_text(serve, tmp_path):
    service, client = serve()
    answer = client.post("/transcribe", content=wav())
    assert answer.status_code == 200
    assert answer.json()["text"] == "4000"
    assert answer.headers["connection"] == "close"
    assert service.uploads.figures.done == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "headers", "status", "word"),
    [
        (b"", {}, 400, "empty"),
        (b"no audio", {}, 422, "not an audio file"),
        (b"--x", {"content-type": "multipart/form-data; boundary=x"}, 415, "--data-binary"),
        (bytes(200_001), {}, 413, "more than 0.2 MB"),
    ],
)
def test_a_body_that_is_no_recording_is_refused_in_words(serve, tmp_path, content, headers, status, word):
    service, client = serve()
    answer = client.post("/transcribe", content=content, headers=headers)
    assert answer.status_code == status
    assert word in answer.json()["error"]
    assert service.uploads.figures.under_way == 0
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_a_length_is_counted_while_it_comes(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "DISCARD_SECONDS", 0.05)
    _, client = serve()

    def endless():
        for _ in range(100):
            yield bytes(10_000)

    answer = client.post("/transcribe", content=endless())
    assert answer.status_code == 413
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_lies_is_not_believed(serve):
    _, client = serve()
    headers = {"content-length": "10"}
    assert client.post("/transcribe", content=iter([bytes(200_001)]), headers=headers).status_code == 413
    assert client.post("/transcribe", content=b"x", headers={"content-length": "9" * 30}).status_code in (413, 422)


def test_more_files_than_are_taken_are_told_to_come_later(serve):
    service, client = serve()
    service.uploads.transcribe.hold = True
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post("/transcribe", content=wav()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: service.uploads.figures.under_way == 2)
    refused = client.post("/transcribe", content=wav())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    service.uploads.transcribe.hold = False
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]


def test_a_file_whose_time_is_up_is_answered_and_given_up(serve):
    service, client = serve(limits=replace(LIMITS, request_seconds=0.2))
    service.uploads.transcribe.hold = True
    answer = client.post("/transcribe", content=wav())
    assert answer.status_code == 504
    wait_until(lambda: service.uploads.transcribe.unwanted == 1)


def test_a_fault_of_the_service_is_an_answer_in_json_and_it_goes_on(serve, monkeypatch):
    _, client = serve()

    def fail(self, *arguments):
        raise RuntimeError("no memory left on the device")

    with monkeypatch.context() as broken:
        broken.setattr(uploads.Uploads, "_recognise", fail)
        answer = TestClient(client.app, raise_server_exceptions=False).post("/transcribe", content=wav())
    assert answer.status_code == 500
    assert "RuntimeError" in answer.json()["error"]
    assert client.post("/transcribe", content=wav()).status_code == 200


def test_stopping_gives_up_a_file_that_is_under_way(serve):
    service, client = serve()
    service.uploads.transcribe.hold = True
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/transcribe", content=wav())))
    thread.start()
    wait_until(lambda: service.uploads.transcribe.begun == 1)
    service.stop()
    thread.join()
    assert answers[0].status_code == 503


def test_a_file_that_comes_whole_when_the_service_has_stopped_is_told_so(serve):
    service, client = serve()

    def body():
        yield wav()
        service.stop()
        yield b""

    assert client.post("/transcribe", content=body()).status_code == 503


def test_a_disk_that_takes_no_more_is_said_and_the_next_file_is_taken(serve, tmp_path):
    service, client = serve()
    service.uploads.folder = tmp_path / "gone"
    answer = client.post("/transcribe", content=wav())
    assert answer.status_code == 503
    assert "cannot keep the file" in answer.json()["error"]
    service.uploads.folder = tmp_path
    assert client.post("/transcribe", content=wav()).status_code == 200


def wait_until(is_so, seconds=30.0):
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    raise AssertionError("did not come about")


# Who is let in.


@pytest.mark.parametrize("path", ["/", "/health", "/nothing"])
def test_another_host_name_is_not_answered(serve, path):
    _, client = serve()
    answer = client.get(path, headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert "rebinding" in answer.json()["error"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_pages_of_other_origins_may_not_stream_or_send(serve, origin):
    service, client = serve()
    assert client.post("/transcribe", content=wav(), headers={"origin": origin}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream", headers={"origin": origin}):
        pass
    assert service.uploads.transcribe.begun == 0
    assert service.dispatcher.figures.opened == 0 or service.dispatcher.open_streams == 0


def test_the_services_own_page_may_and_one_that_was_allowed_by_name(serve):
    from dsrun.serving.access import Access

    access = Access(hosts=frozenset({"testserver"}), origins=frozenset({"https://pages.example"}))
    _, client = serve(access=access)
    content = as_bytes(sound(0.5, seed=1))
    for origin in ("http://testserver", "http://localhost:3000", "https://pages.example"):
        assert converse(client, BEGIN, content, END, headers={"origin": origin})[1] == 1000
    asked = {"origin": "https://pages.example"}
    assert client.options("/transcribe", headers=asked).headers["access-control-allow-origin"] == asked["origin"]
    answer = client.post("/transcribe", content=wav(), headers=asked)
    assert answer.headers["access-control-allow-origin"] == asked["origin"]
    assert "access-control-allow-origin" not in client.get("/health").headers


def test_too_many_connections_are_refused_and_health_is_still_told(serve):
    service, client = serve()
    service.connections = LIMITS.most_connections + 1
    assert client.post("/transcribe", content=wav()).status_code == 503
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream"):
        pass
    assert client.get("/health").json()["connections"] == 9


# What is told.


def test_health_tells_model_limits_and_figures(serve):
    _, client = serve()
    converse(client, BEGIN, as_bytes(sound(1.0, seed=1)), END)
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["model"] == "tiny"
    assert health["streams"] == {"open": 0, "most": 4}
    assert health["limits"]["max_seconds"] == 5.0
    assert health["figures"]["streams_finished"] == 1
    assert health["figures"]["latency"]["median_ms"] > 0


def test_what_is_not_there_is_said_in_json(serve):
    _, client = serve()
    assert "There are GET /" in client.get("/nothing").json()["error"]
    assert client.get("/transcribe").status_code == 405
    assert client.put("/").status_code == 405


def test_the_page_needs_nothing_else_and_may_load_nothing_else(serve):
    _, client = serve()
    answer = client.get("/")
    page, policy = answer.text, answer.headers["content-security-policy"]
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http://" not in page.replace("http://localhost", "").replace("http://127.0.0.1", "")
    assert page.count("<script>") == page.count("<style>") == 1
    assert " style=" not in page  # the policy would not let it work
    assert policy == content_policy(page)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("name", ["most_streams", "max_seconds", "max_megabytes", "idle_seconds", "request_seconds"])
def test_a_limit_of_nothing_is_refused_by_its_options_name(name):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} 0"):
        Limits(**{name: 0})


def test_fewer_connections_than_streams_are_refused():
    with pytest.raises(UsageError, match="Write at least 32"):
        Limits(most_connections=10)
