"""`dsrun serve`: what is refused before anything is loaded, and what it says."""

import importlib.util
import json

import pytest
from typer.testing import CliRunner

from dsrun import cli_serve
from dsrun.cli import app
from dsrun.errors import UsageError
from dsrun.serving.server import bind, listen


def refusal(*arguments):
    outcome = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert isinstance(outcome.exception, UsageError), outcome.output
    return str(outcome.exception)


def test_a_host_that_others_reach_needs_to_be_asked_for(tmp_path):
    assert "--expose" in refusal(tmp_path, "--host", "0.0.0.0")
    assert "--expose" in refusal(tmp_path, "--host", "speech.example.org")


def test_a_folder_that_is_no_model_is_told(tmp_path):
    assert "not a run folder" in refusal(tmp_path, "--port", 0)


def test_a_port_in_use_is_told_before_anything_is_loaded(tmp_path):
    with bind("127.0.0.1", 0) as taken:
        listen(taken)
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot listen there" in refusal(tmp_path / "not there", "--port", port)


def test_an_export_has_its_own_checkpoint_and_format(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    assert "--format int8: for a run" in refusal(tmp_path, "--port", 0, "--format", "int8")
    assert "--checkpoint last: for a run" in refusal(tmp_path, "--port", 0, "--checkpoint", "last")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--max-seconds", "0"], "--max-seconds 0"),
        (["--idle-seconds", "nan"], "finite"),
        (["--most-streams", "10", "--most-connections", "5"], "at least 10"),
        (["--allow-origin", "example.org"], "scheme://host"),
        (["--allow-host", "http://example.org"], "without scheme"),
    ],
)
def test_limits_and_names_that_cannot_be_are_refused(tmp_path, options, word):
    assert word in refusal(tmp_path, "--port", 0, *options)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else find(name, *rest)
    )
    assert 'uvicorn, which is not installed: pip install "dsrun[serve]"' in refusal(tmp_path)


def test_it_says_in_json_where_it_listens_and_what_it_serves(tmp_path, monkeypatch):
    """Up to the moment when it would listen: the model is a stand-in, and so is the end."""
    from dsrun import serve
    from dsrun.serving.server import Server
    from tests.serving.services import make_service

    service = make_service(tmp_path, dispatcher=None)
    monkeypatch.setattr(serve, "make_service", lambda *arguments, **options: service)
    monkeypatch.setattr(Server, "serve_on", lambda self, listening, *, on_ready: (on_ready(), listening.close()))
    monkeypatch.setattr(cli_serve, "_leave", lambda: None)
    outcome = CliRunner().invoke(
        app, ["serve", str(tmp_path), "--port", "0", "--json", "--host", "0.0.0.0", "--expose"]
    )
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert found["address"] == f"http://0.0.0.0:{found['port']}/"
    assert found["model"] == "tiny"
    assert "no password" in outcome.stderr
    assert "files only: its layers are bidirectional." in outcome.stderr
    assert "serving" in outcome.stderr
