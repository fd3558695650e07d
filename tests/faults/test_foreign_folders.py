"""A results folder, a model or an address from somebody else has no say over other files."""

import json
from pathlib import Path

import pytest

from vpetl_ray.addresses import redact
from vpetl_ray.errors import SearchError, SpecError
from vpetl_ray.export import _file_name
from vpetl_ray.loading import locate
from vpetl_ray.results.waiting_records import WAITING_FILE, _own, read_waiting
from vpetl_ray.results_folder import LOCK_FILE, _check_writable, locked
from vpetl_ray.submit import _client, _variables

PASSWORD = "hunter2secret"


def test_a_lock_that_is_a_link_leaves_what_it_points_to(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / LOCK_FILE).symlink_to(victim)
    with pytest.raises(SpecError, match="cannot be opened to lock the folder"), locked(folder):
        pass
    assert victim.read_text() == "precious"


def test_what_waits_for_mlflow_names_files_of_its_folder_alone(tmp_path: Path):
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    assert _own(folder, "front.json") == folder / "front.json"
    for name in ("../secret", str(tmp_path / "secret"), "link"):
        with pytest.raises(ValueError, match="outside the results folder"):
            _own(folder, name)


def test_a_folder_that_would_upload_other_files_is_refused(tmp_path: Path):
    formats = Path(__file__).parent / "formats"
    source = sorted(formats.rglob(WAITING_FILE))
    lines = [json.loads(line) for line in source[-1].read_text().splitlines()]
    summary = next(line for line in lines if "summary" in line)
    summary["summary"]["files"] = ["/etc/hostname"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / WAITING_FILE).write_text(text)
    with pytest.raises(SearchError, match="outside the results folder"):
        read_waiting(tmp_path)


@pytest.mark.parametrize("trial", ["../escaped", "/tmp/abs", "x" * 300, "", 7, None])
def test_an_export_is_named_by_a_trial_alone(trial: object):
    assert _file_name("t0001") == "t0001"
    with pytest.raises(SpecError, match="give --out"):
        _file_name(trial)


def test_a_file_above_the_results_folder_is_said(tmp_path: Path):
    (tmp_path / "a_file").write_text("x")
    with pytest.raises(SpecError, match="a_file is a file, not a folder"):
        _check_writable(tmp_path / "a_file" / "x")


@pytest.mark.parametrize(
    "use",
    [
        lambda: locate(f"s3://AKIA:{PASSWORD}@bucket/runs/x"),
        lambda: _client(f"http://u:{PASSWORD}@127.0.0.1:9"),
        lambda: _variables([f"MLFLOW_TRACKING_URI=http://u:{PASSWORD}@h"]),
    ],
    ids=["predict", "submit", "env"],
)
def test_a_password_on_the_command_line_is_refused_and_not_shown(use):
    with pytest.raises(SpecError, match="password or token") as refused:
        use()
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["no folder at s3://AKIA:{}@bucket/x", "http://h/?auth={}", "http://h/#token={}"],
)
def test_passwords_in_any_address_of_a_message_are_hidden(text: str):
    address = text.format(PASSWORD)
    assert PASSWORD not in redact(address, address)
