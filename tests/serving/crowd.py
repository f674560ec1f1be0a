"""A crowd in front of a service: people who speak at the speed of sound, and others who mean no good.

    python -m tests.serving.crowd MODEL MANIFEST [--streams 30] [--seconds 8]

starts `dsrun serve MODEL`, lets so many clients speak recordings of a manifest in blocks of 40 ms, while others send garbage, bodies that
are too large, vanish in the middle, or say nothing; then compares every text with the one that `dsrun transcribe --stream` gives, and
prints what was measured as JSON.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

BLOCK_SECONDS = 0.04
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def as_sent(samples):
    """Bytes of a recording, as a client sends it."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def as_heard(content):
    """The samples that a service makes of them."""
    return np.frombuffer(content, "<i2").astype(np.float32) / np.float32(32768)


@contextmanager
def serving(model, *options):
    """A process of `dsrun serve`; what it says of itself, and the process."""
    command = [sys.executable, "-m", "dsrun", "serve", str(model), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
        reader.start()
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(30)
                reader.join(5)
                raise AssertionError("".join(said))
            yield json.loads(line), process, said
        finally:
            if process.poll() is None:
                process.kill()
            reader.join(5)


def resident_bytes(pid):
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


async def speak(port, content, rate, *, at=0.0):
    """One recording at the speed of sound; its text, and seconds from its end to the last of the text."""
    await asyncio.sleep(at)
    size = round(BLOCK_SECONDS * rate) * 2
    async with connect(f"ws://127.0.0.1:{port}/stream", compression=None) as stream:
        await stream.send(json.dumps({"sample_rate": rate}))
        start, told = time.monotonic(), []
        reading = asyncio.create_task(_listen(stream, told))
        for place in range(0, len(content), size):
            due = start + (place + size) / 2 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await stream.send(content[place : place + size])
        ended = time.monotonic()
        await stream.send('{"end": true}')
        await asyncio.wait_for(reading, 60)
    assert "error" not in told[-1], told[-1]
    assert "".join(one["new"] for one in told) == told[-1]["text"]
    return told[-1]["text"], time.monotonic() - ended


async def _listen(stream, told):
    async for message in stream:
        told.append(json.loads(message))
        if told[-1].get("is_final") or "error" in told[-1]:
            return


def misbehave(port, stop, seed):
    """Garbage, oversized bodies, malformed streams, resets, silence: one after the other, until told to stop; how many of them."""
    rng, count = random.Random(seed), 0
    while not stop.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            rng.choice(MISDEEDS)(client, rng)
        count += 1
        stop.wait(0.02)
    return count


def _garbage(client, rng):
    client.sendall(rng.randbytes(rng.randrange(1, 3000)))
    client.recv(100)


def _oversized(client, rng):
    client.sendall(b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(40):
        client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def _lying(client, rng):
    client.sendall(b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\nRIFF")
    client.recv(1000)


def _no_audio(client, rng):
    content = rng.randbytes(5000)
    client.sendall(b"POST /transcribe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + content)
    client.recv(1000)


def _silent(client, rng):
    time.sleep(0.5)


def _upgrade(client):
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    client.sendall(
        b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n"
    )
    client.recv(1000)


def _malformed(client, rng):
    _upgrade(client)
    client.sendall(rng.randbytes(rng.randrange(2, 500)))
    client.recv(1000)


def _vanishing(client, rng):
    _upgrade(client)
    begin = b'{"sample_rate": 16000}'
    client.sendall(bytes([0x81, 0x80 | len(begin)]) + bytes(4) + begin)
    client.sendall(b"\x82\xfe" + struct.pack("!H", 32000) + bytes(4) + rng.randbytes(32000))
    time.sleep(0.2)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset


MISDEEDS = (_garbage, _oversized, _lying, _no_audio, _silent, _malformed, _vanishing)


async def ask_health(port, stop, waits):
    """How long /health takes, again and again."""
    while not stop.is_set():
        start = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:100]
        waits.append(time.monotonic() - start)
        await asyncio.sleep(0.2)
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def crowd(port, clips, rate, *, starts):
    """Everybody at once; texts, seconds to the last of each, waits for /health, misdeeds, and the last /health."""
    stop, waits, loop = threading.Event(), [], asyncio.get_running_loop()
    bad = [loop.run_in_executor(None, misbehave, port, stop, seed) for seed in range(4)]
    asking = asyncio.create_task(ask_health(port, stop, waits))
    found = await asyncio.gather(*(speak(port, clip, rate, at=at) for clip, at in zip(clips, starts, strict=True)))
    stop.set()
    counts, health = await asyncio.gather(*bad), await asking
    texts, endings = zip(*found, strict=True)
    return list(texts), list(endings), waits, sum(counts), health


def run_crowd(model, clips, rate, *, rounds=2, options=()):
    """Serve, speak `rounds` times, end by a signal; the texts of each round and what was measured."""
    rng = random.Random(1)
    starts = [rng.uniform(0.0, 1.0) for _ in clips]
    texts, endings, waits, misdeeds, memory = [], [], [], 0, []
    with serving(model, *options) as (about, process, said):
        for _ in range(rounds):
            memory.append(resident_bytes(process.pid))
            found = asyncio.run(crowd(about["port"], clips, rate, starts=starts))
            texts.append(found[0])
            endings += found[1]
            waits += found[2]
            misdeeds, health = misdeeds + found[3], found[4]
        memory.append(resident_bytes(process.pid))
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    figures = {
        "streams": len(clips),
        "rounds": rounds,
        "misdeeds": misdeeds,
        "health_asked": len(waits),
        "health_longest_ms": round(1000 * max(waits), 1),
        "ending_median_ms": round(1000 * float(np.median(endings)), 1),
        "ending_percentile_98_ms": round(1000 * float(np.percentile(endings, 98)), 1),
        "memory_mb": [round(size / 1e6) for size in memory],
        "latency": health["figures"]["latency"],
        "mean_batch": round(health["figures"]["mean_batch"], 2),
        "exit_code": code,
    }
    return texts, figures, "".join(said)


def main():
    """For a model and a manifest."""
    from dsrun.models import load_model
    from dsrun.speech import read_manifest
    from dsrun.speech.audio import read_audio
    from dsrun.streaming import StreamRecogniser

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--streams", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=8.0, help="Of sound, at least, that each stream speaks.")
    given = parser.parse_args()
    model = load_model(given.model)
    utterances, clips = read_manifest(given.manifest), []
    for number in range(given.streams):
        pieces, place = [], number
        while sum(map(len, pieces)) < given.seconds * model.audio.sample_rate:
            pieces.append(read_audio(utterances[place % len(utterances)].audio, model.audio))
            place += given.streams
        clips.append(as_sent(np.concatenate(pieces)))
    texts, figures, said = run_crowd(given.model, clips, model.audio.sample_rate)
    recogniser, wrong = StreamRecogniser(model, chunk_ms=200), 0
    for number, clip in enumerate(clips):
        recogniser.restart()
        recogniser.hear(as_heard(clip))
        recogniser.finish()
        wrong += sum(one[number] != recogniser.text for one in texts)
    seconds = sum(map(len, clips)) / 2 / model.audio.sample_rate
    print(
        json.dumps(figures | {"sound_seconds": round(seconds, 1), "texts_that_differ": wrong, "stderr": said}, indent=2)
    )


if __name__ == "__main__":
    main()
