"""Jobs on a real Ray head of its own, and every way in which there is no cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster import submit as submit_module
from cluster.submit import SubmitConfig, auth_headers, exit_code, job_environment, submit
from extpose.errors import ExtPoseError
from extpose.training.source_code import COMMIT, find_commit

TOKEN = "a-token-of-the-test"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own Ray settings."""
    for name in list(os.environ):
        if name.startswith("RAY_A"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the head and what it started, and nothing else that may run on this machine."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A Ray head on free ports that wants a token; its dashboard's address."""
    gcs, dashboard, client, agent = free_ports(4)
    temp_dir = tempfile.mkdtemp(prefix="ray-")  # pytest's own folders are too long for sockets
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temp_dir}"),
        *("--num-cpus=4", "--object-store-memory=100000000", "--disable-usage-stats"),
    ]
    # The job's `python` is the one of this environment.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    address = f"http://127.0.0.1:{dashboard}"
    with open(Path(temp_dir) / "head.log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(120):
            assert process.poll() is None, (Path(temp_dir) / "head.log").read_text()
            try:
                submit_module.check_answers(
                    address, {"Authorization": f"Bearer {TOKEN}"}, timeout=5
                )
                break
            except ExtPoseError:
                time.sleep(0.5)
        yield address
    finally:
        stop(process)
        shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
def test_jobs_keep_output_and_exit_code(
    head: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExtPoseError, match=r"wants a token and none was found.*RAY_AUTH_TOKEN"):
        submit(["--version"], SubmitConfig(address=head))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ExtPoseError, match="refuses the token"):
        submit(["--version"], SubmitConfig(address=head))

    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # --address goes before it
    assert submit(["--version"], SubmitConfig(address=head)) == 0
    assert "extpose 0.1.0" in capfd.readouterr().out
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"
    assert submit_module.ADDRESS_VARIABLE not in os.environ

    assert submit(["no-such-verb"], SubmitConfig(address=head)) == 2
    assert "unknown verb 'no-such-verb'" in capfd.readouterr().out

    monkeypatch.setenv("RAY_ADDRESS", head)
    video = ["preprocess", "--source.path", "no such video.mp4", "--out", "out"]
    assert submit(video, SubmitConfig()) in (1, 3)


@pytest.mark.ray
@pytest.mark.slow
def test_not_waiting(
    head: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    caplog.set_level("INFO")
    assert submit(["no-such-verb"], SubmitConfig(address=head, wait=False)) == 0
    assert f"ray job stop --address {head}" in caplog.text


def test_no_cluster_is_named_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExtPoseError, match="no verb"):
        submit([], SubmitConfig(address="http://127.0.0.1:1"))
    with pytest.raises(ExtPoseError, match=r"--address.*RAY_ADDRESS"):
        submit(["doctor"], SubmitConfig())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ExtPoseError, match=r"RAY_ADDRESS is '10\.0\.0\.1:6379'.*dashboard"):
        submit(["doctor"], SubmitConfig())
    (port,) = free_ports(1)
    with pytest.raises(ExtPoseError, match=f"no Ray dashboard answers at http://127.0.0.1:{port}"):
        submit(["doctor"], SubmitConfig(address=f"http://127.0.0.1:{port}/"))


def test_another_server_is_not_taken_for_ray() -> None:
    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ExtPoseError, match="answers 404"):
            submit(["doctor"], SubmitConfig(address=f"http://127.0.0.1:{server.server_port}"))


def test_token_is_looked_for_where_ray_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert auth_headers() == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert auth_headers() == {"Authorization": "Bearer home"}
    (tmp_path / "other").write_text("file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert auth_headers() == {"Authorization": "Bearer file"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert auth_headers() == {"Authorization": "Bearer variable"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth_headers() == {}
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(ExtPoseError, match="missing does not exist"):
        auth_headers()


def test_variables_of_the_job() -> None:
    assert job_environment(["A=b=c"]) == {"OMP_WAIT_POLICY": "PASSIVE", "A": "b=c"}
    with pytest.raises(ExtPoseError, match="NAME=VALUE"):
        job_environment(["A"])


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 1),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 1),
    ],
)
def test_exit_codes(status: JobStatus, code: int | None, expected: int) -> None:
    info = JobDetails(
        type=JobType.SUBMISSION, status=status, entrypoint="", message="", driver_exit_code=code
    )
    assert exit_code(info) == expected


def test_interrupt_leaves_the_job_and_says_how_to_stop_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Client:
        def __init__(self, address: str, headers: dict[str, str]) -> None:
            assert os.environ[submit_module.ADDRESS_VARIABLE] == address

        def submit_job(self, *, entrypoint: str, runtime_env: dict[str, object]) -> str:
            assert entrypoint == "python -m pipelines.cli predict 'a b.mp4'"
            # The upload has no .git: results could not name the code.
            variables = runtime_env["env_vars"]
            assert isinstance(variables, dict)
            assert variables[COMMIT] == find_commit()
            return "job-1"

    def interrupt(client: Client, job_id: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit_module, "JobSubmissionClient", Client)
    monkeypatch.setattr(submit_module, "check_answers", lambda *args, **kwargs: None)
    monkeypatch.setattr(submit_module, "_follow", interrupt)
    caplog.set_level("INFO")
    assert submit(["predict", "a b.mp4"], SubmitConfig(address="http://head:8265")) == 130
    assert "ray job stop --address http://head:8265 job-1" in caplog.text


def test_upload_keeps_the_code_and_leaves_the_rest(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    names = ["extpose/data/shards.py", "pipelines/cli.py", "pyproject.toml"]
    left = ["data/a.tar", "runs/a/model.safetensors", ".git/config", ".venv/bin/python"]
    left += ["demo/x.mp4", "extpose/__pycache__/a.pyc", ".mypy_cache/x", "a.egg-info/PKG-INFO"]
    for name in names + left:
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_text("x")
    create_package(
        str(tmp_path / "clone"),
        tmp_path / "package.zip",
        include_gitignore=True,
        excludes=list(submit_module.EXCLUDES),
    )
    shutil.unpack_archive(tmp_path / "package.zip", tmp_path / "out")
    kept = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert {name for name in kept if (tmp_path / "out" / name).is_file()} == set(names)
