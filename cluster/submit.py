"""`extpose submit`: run another verb as a job on a Ray cluster, from a clone of this repository.

The clone is uploaded (without data, runs and environments) and the job starts in it, so the
cluster runs the code that is on this disk. Paths in the verb's arguments are the cluster's own:
give absolute ones on shared storage. A relative output would land in the job's scratch folder.
"""

import asyncio
import logging
import os
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from extpose.errors import ExtPoseError
from extpose.training.source_code import describe_code

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
EXCLUDES = (
    "/.git/",
    "/.github/",
    "/.venv/",
    "/data/",
    "/demo/",
    "/dist/",
    "/runs/",
    ".*_cache/",
    ".hypothesis/",
    "__pycache__/",
    "*.egg-info/",
)
"""Like .gitignore, from the repository's root: what a job never needs."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """`extpose submit`: where to run, and whether to wait for the end."""

    address: str = ""
    """Dashboard of the cluster, `http://HEAD:8265`; empty: the variable RAY_API_SERVER_ADDRESS,
    then RAY_ADDRESS."""
    env: tuple[str, ...] = ()
    """Variables of the job: NAME=VALUE ..."""
    wait: bool = True
    """Follow the logs and end with the job's own exit code; else return once it is sent."""
    working_dir: Path = REPOSITORY
    """The clone that is uploaded."""
    timeout: float = 10.0
    """Seconds that the cluster has to answer a first request."""


def submit(verb_args: Sequence[str], config: SubmitConfig) -> int:
    """Send `extpose VERB ...` to the cluster; returns the job's exit code (0 without `wait`).

    The job's output goes to standard output. Raises `ExtPoseError` without an address, where
    nothing answers, where the cluster wants a token, and where it refuses the job.
    """
    if not verb_args:
        raise ExtPoseError("submit: no verb given; for example: extpose submit -- doctor")
    address = resolve_address(config.address)
    headers = auth_headers()
    check_answers(address, headers, timeout=config.timeout)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    with _environment(ADDRESS_VARIABLE, address):
        client = JobSubmissionClient(address, headers=headers)
    try:
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "pipelines.cli", *verb_args]),
            runtime_env={
                "working_dir": str(config.working_dir),
                "excludes": list(EXCLUDES),
                "env_vars": {**describe_code(config.working_dir), **job_environment(config.env)},
            },
        )
    except (RuntimeError, ValueError) as error:
        raise ExtPoseError(f"{address} did not take the job: {error}") from error
    logger.info("job %s at %s", job_id, address)
    if not config.wait:
        _tell_commands(job_id, address, headers)
        return 0
    try:
        return exit_code(_follow(client, job_id))
    except KeyboardInterrupt:
        logger.warning("\nNo longer following job %s; it goes on.", job_id)
        _tell_commands(job_id, address, headers)
        return INTERRUPTED


def resolve_address(given: str) -> str:
    """The dashboard's address: as given, else from the environment.

    Raises `ExtPoseError` when there is none, or when it is not an HTTP address.
    """
    candidates = {
        "--address": given,
        ADDRESS_VARIABLE: os.environ.get(ADDRESS_VARIABLE, ""),
        "RAY_ADDRESS": os.environ.get("RAY_ADDRESS", ""),
    }
    name, address = next(((n, a) for n, a in candidates.items() if a), ("", ""))
    if not address:
        raise ExtPoseError(
            "no cluster given: pass --address http://HEAD:8265 (the dashboard of the Ray head), "
            f"or set {ADDRESS_VARIABLE} or RAY_ADDRESS"
        )
    if not address.startswith(("http://", "https://")):
        raise ExtPoseError(
            f"{name} is {address!r}: jobs are sent to the dashboard, such as http://HEAD:8265"
        )
    return address.rstrip("/")


def auth_headers() -> dict[str, str]:
    """The cluster's token, if there is one, where Ray itself looks for it.

    `RAY_AUTH_TOKEN`, the file `RAY_AUTH_TOKEN_PATH`, then `~/.ray/auth_token`. Ray's job client
    sends it only under `RAY_AUTH_MODE=token`, although its clusters want it by default.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        default = Path.home() / ".ray" / "auth_token"
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default)
        if path.is_file():
            token = path.read_text()
        elif path != default:
            raise ExtPoseError(f"RAY_AUTH_TOKEN_PATH: {path} does not exist")
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def check_answers(address: str, headers: dict[str, str], *, timeout: float) -> None:
    """Raise `ExtPoseError` if no Ray dashboard answers, or if it refuses the token."""
    request = urllib.request.Request(f"{address}/api/jobs/", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in (401, 403):
            raise ExtPoseError(f"{address} answers {error.code}: not Ray's dashboard?") from error
        sent = "refuses the token that was sent" if headers else "wants a token and none was found"
        raise ExtPoseError(
            f"{address} {sent} ({error.code}): set RAY_AUTH_TOKEN to the cluster's token, or "
            "RAY_AUTH_TOKEN_PATH to a file with it (on the head: `ray get-auth-token`), and leave "
            "RAY_AUTH_MODE unset or at 'token'"
        ) from error
    except (OSError, ValueError) as error:
        raise ExtPoseError(f"no Ray dashboard answers at {address}: {error}") from error


def job_environment(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` strings and the project's own settings as variables of the job."""
    variables = {"OMP_WAIT_POLICY": "PASSIVE"}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ExtPoseError(f"--env {pair!r}: expected NAME=VALUE")
        variables[name] = value
    return variables


def exit_code(info: JobDetails) -> int:
    """The exit code of the verb itself; 1 if it never came to run or was killed."""
    if info.status == JobStatus.SUCCEEDED:
        return 0
    logger.error("job %s %s: %s", info.submission_id, info.status.value.lower(), info.message)
    return max(info.driver_exit_code or 0, 1)


def _follow(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """Copy the job's output here until it ends."""
    try:
        asyncio.run(_copy_logs(client, job_id))
    except (RuntimeError, aiohttp.ClientError) as error:
        logger.warning("lost the log of job %s (%s); waiting for its end", job_id, error)
    while not (info := client.get_job_info(job_id)).status.is_terminal():
        time.sleep(POLL_SECONDS)
    return info


async def _copy_logs(client: JobSubmissionClient, job_id: str) -> None:
    async for text in client.tail_job_logs(job_id):
        sys.stdout.write(text)
        sys.stdout.flush()


def _tell_commands(job_id: str, address: str, headers: dict[str, str]) -> None:
    prefix = "RAY_AUTH_MODE=token " if headers else ""
    for what, verb in (("follow", "logs --follow"), ("stop", "stop")):
        logger.info("to %s it: %sray job %s --address %s %s", what, prefix, verb, address, job_id)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a moment: Ray's client prefers the variable to its own argument."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
