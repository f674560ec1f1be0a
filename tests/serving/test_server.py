"""On a socket: clients that are silent, vanish, flood, or take nothing, and the end. What the application alone cannot see."""

import http.client
import json
import logging
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from dsrun.errors import UsageError
from dsrun.serving import server as servers
from dsrun.serving.limits import MESSAGE_BYTES
from dsrun.serving.server import address_of, bind, listen, make_server
from tests.serving.services import LIMITS, as_bytes, expected_text, make_service
from tests.serving.speakers import RATE, sound

BEGIN, END = json.dumps({"sample_rate": RATE}), '{"end": true}'


class Running:
    """A service that listens in a thread."""

    def __init__(self, service):
        self.service, self.server, self.listening = service, make_server(service), bind("127.0.0.1", 0)
        listen(self.listening)
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.server.serve_on, args=(self.listening,))
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def health(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def stream(self, **options):
        return connect(f"ws://127.0.0.1:{self.port}/stream", compression=None, **options)

    def raw(self, content=b"", *, receive_buffer=None):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        try:
            client.connect(("127.0.0.1", self.port))
            client.sendall(content)
        except OSError:
            client.close()
            raise
        return client

    def wait_for(self, is_so):
        for _ in range(1500):
            if is_so():
                return
            time.sleep(0.01)
        raise AssertionError("did not come about")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One service for all tests that leave it as it was."""
    one = Running(make_service(tmp_path_factory.mktemp("bodies"), limits=replace(LIMITS, idle_seconds=0.5)))
    yield one
    one.stop()


@pytest.fixture
def of_its_own(tmp_path):
    """A service for one test, with limits of its own."""
    started = []

    def start(**limits):
        started.append(Running(make_service(tmp_path, limits=replace(LIMITS, **limits))))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def handshake(port):
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    return f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n".encode()


def frame(opcode, content, *, final=True):
    """A masked frame (RFC 6455, section 5.2); the mask is zero."""
    head = bytes([opcode | (0x80 if final else 0)])
    size = len(content)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + struct.pack("!H", size)
        if size < 65536
        else b"\xff" + struct.pack("!Q", size)
    )
    return head + length + bytes(4) + content


def send_until_cut_off(client, content):
    """How many bytes could be sent."""
    sent = 0
    with suppress(OSError):
        while sent < 1 << 28:
            client.sendall(content)
            sent += len(content)
            time.sleep(0.001)
    return sent


def speak(running, seed):
    """A whole conversation; the text in the end."""
    content = as_bytes(sound(0.8, seed=seed))
    with running.stream() as stream:
        stream.send(BEGIN)
        for start in range(0, len(content), 1000):
            stream.send(content[start : start + 1000])
        stream.send(END)
        while not (answer := json.loads(stream.recv(timeout=30)))["is_final"]:
            pass
    return answer["text"]


def test_streams_over_sockets_have_the_text_that_one_has_alone(running):
    texts = {}
    threads = [
        threading.Thread(target=lambda seed=seed: texts.update({seed: speak(running, seed)})) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: expected_text(sound(0.8, seed=seed)) for seed in range(4)}


@pytest.mark.parametrize(
    "content",
    [
        b"\0\1\2\3 nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%ff\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_are_answered_or_cut_off_and_break_nothing(running, content, caplog):
    client = running.raw(content)
    answer = client.recv(1000)
    client.close()
    assert not answer or b" 4" in answer.splitlines()[0], answer
    assert running.health()["status"] == "ok"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_vanishes_frees_its_stream(running):
    client = running.raw(handshake(running.port))
    assert b"101" in client.recv(1000)
    client.sendall(frame(1, BEGIN.encode()) + frame(2, as_bytes(sound(0.3, seed=1))))
    running.wait_for(lambda: running.service.dispatcher.open_streams == 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # a reset
    running.wait_for(lambda: running.service.dispatcher.open_streams == 0 and running.service.connections == 0)


def test_a_stream_more_than_there_is_room_for_is_told_so_and_a_place_that_is_left_is_given_again(running):
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(running.stream()).send(BEGIN)
        running.wait_for(lambda: running.service.dispatcher.open_streams == 4)
        with running.stream() as fifth:
            fifth.send(BEGIN)
            told = json.loads(fifth.recv(timeout=10))
    assert told["code"] == 1013
    assert "4 streams are open" in told["error"]
    running.wait_for(lambda: running.service.dispatcher.open_streams == 0)
    assert speak(running, 2) == expected_text(sound(0.8, seed=2))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (frame(1, b"\xff\xfe"), 1007),  # no UTF-8
        (frame(3, b""), 1002),  # a reserved opcode
        (frame(0, b"lost"), 1002),  # a continuation of nothing
        (b"\x81\xff" + struct.pack("!Q", 1 << 62), 1009),  # a length that nobody will send
        (frame(2, b"\0" * (3 * MESSAGE_BYTES)), 1009),
    ],
)
def test_frames_that_break_the_protocol_close_their_connection_alone(running, content, code):
    client = running.raw(handshake(running.port))
    assert b"101" in client.recv(1000)
    client.sendall(content)
    found = client.recv(1000)
    client.close()
    assert struct.pack("!H", code) in found, found
    assert running.health()["status"] == "ok"


def test_a_message_in_endless_empty_pieces_is_cut_off(running):
    client = running.raw(handshake(running.port))
    assert b"101" in client.recv(1000)
    client.sendall(frame(2, b"", final=False))
    sent = send_until_cut_off(client, frame(0, b"", final=False) * 100)
    assert sent < 1 << 20
    client.close()
    running.wait_for(lambda: running.service.connections == 0)


def test_a_client_that_floods_with_pings_and_takes_no_answer_is_cut_off(running):
    client = running.raw(handshake(running.port), receive_buffer=4096)
    sent = send_until_cut_off(client, frame(9, bytes(125)) * 500)
    client.close()
    assert sent < 1 << 26
    running.wait_for(lambda: running.service.connections == 0)


def test_a_connection_that_says_nothing_or_never_ends_its_header_is_cut_off(of_its_own, monkeypatch):
    monkeypatch.setattr(servers, "HEADER_SECONDS", 0.2)
    running = of_its_own()
    silent, slow = running.raw(), running.raw(b"GET / HTTP/1.1\r\nHost: loc")
    assert silent.recv(10) == b""
    send_until_cut_off(slow, b"a")
    silent.close()
    slow.close()
    running.wait_for(lambda: running.service.connections == 0)


def test_a_body_that_stops_coming_is_answered(of_its_own):
    running = of_its_own(idle_seconds=0.2)
    client = running.raw(b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nRIFF")
    assert b" 408 " in client.recv(1000)
    client.close()
    assert running.service.uploads.figures.under_way == 0


def test_a_client_that_leaves_while_its_file_is_recognised_is_worked_for_no_longer(of_its_own):
    running = of_its_own()
    running.service.uploads.transcribe.hold = True
    client = running.raw(b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nRIFF")
    running.wait_for(lambda: running.service.uploads.transcribe.begun == 1)
    client.close()
    running.wait_for(lambda: running.service.uploads.transcribe.unwanted == 1)
    running.wait_for(lambda: running.service.uploads.figures.under_way == 0)


def test_connections_are_limited_and_a_few_more_are_told_so(of_its_own):
    running = of_its_own(most_connections=4)
    held = [running.raw() for _ in range(4)]
    running.wait_for(lambda: running.service.connections == 4)
    with pytest.raises(InvalidStatus) as refused, running.stream():
        pass
    assert refused.value.response.status_code == 503
    assert running.health()["status"] == "ok"
    held += [running.raw() for _ in range(12)]
    running.wait_for(lambda: running.service.connections == 8)  # the others were cut off
    for client in held:
        client.close()
    running.wait_for(lambda: running.service.connections == 0)
    assert speak(running, 1)


def test_the_end_is_told_to_streams_and_comes_soon_also_where_somebody_takes_nothing(of_its_own, monkeypatch):
    monkeypatch.setattr(servers, "LAST_SECONDS", 0.5)
    running = of_its_own()
    deaf = running.raw(handshake(running.port), receive_buffer=4096)
    assert b"101" in deaf.recv(1000)
    deaf.sendall(frame(1, BEGIN.encode()))
    with running.stream() as stream:
        stream.send(BEGIN)
        stream.send(as_bytes(sound(0.3, seed=1)))
        running.wait_for(lambda: running.service.dispatcher.open_streams == 2)
        began = time.monotonic()
        running.server.should_exit = True
        told = []
        with suppress(ConnectionClosed):
            while True:
                told.append(json.loads(stream.recv(timeout=10)))
    running.thread.join(20)
    assert time.monotonic() - began < 8
    assert told[-1]["code"] == stream.close_code == 1012
    deaf.close()
    with pytest.raises(OSError):
        running.raw()


def test_a_port_in_use_and_a_host_that_is_none_are_told():
    with bind("127.0.0.1", 0) as taken:
        listen(taken)
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UsageError, match=f"--port {port}: cannot listen there.*--port 0"):
            bind("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"--host no.such.host.invalid"):
        bind("no.such.host.invalid", 0)


def test_of_two_services_that_take_a_port_at_the_same_time_the_second_is_told():
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        listen(first)
        with pytest.raises(UsageError, match="cannot listen there"):
            listen(second)
