"""Sends a command of `unrolled` to a Ray cluster as a job and shows its output as if it ran here."""

from __future__ import annotations

import asyncio
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.cluster.package import pack
from unrolled.cluster.ray_session import PACKAGE_FOLDER, find_token, quiet, refusal
from unrolled.errors import UserError, did_you_mean, listing

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient


STORAGE = "~/unrolled"
STOP_SECONDS = 300
"""How long a stopped job may take for its checkpoint before Ray kills it; Ray's own choice is 3."""


def submit(
    address: str,
    command: Sequence[str],
    storage: str | None = None,
    *,
    known: Sequence[str],
    folder: Path | None = None,
    excluded: Sequence[str] = (),
) -> int:
    """Runs ``unrolled COMMAND…`` on a cluster and returns its exit code.

    The folder and this package travel with the job, so that configs and data files beside them are found. Output is
    printed as it comes. Ctrl-C stops the job, which then leaves a checkpoint.

    Args:
        address: URL of the cluster's job server, ``http://HOST:8265``.
        command: words after ``unrolled``, such as ``["train", "configs/a.yaml", "--workers", "8"]``.
        storage: folder on the cluster for relative run folders, since Ray deletes a job's own folder; ``~`` is the
            cluster's. Default: `STORAGE`.
        known: commands that may be submitted.
        folder: to send; default: the current one.
        excluded: file patterns that are not sent.

    Raises:
        UserError: nobody answers there, the token is wrong, the folder is too large or the command is not known.
    """
    _check_command(command, known)
    with quiet(None):
        client = _client(address)
        storage = storage or STORAGE
        job = _start(client, command, storage, folder or Path.cwd(), excluded)
        print(f"{job} runs on {address}; relative run folders are in {storage} there. Ctrl-C stops it.", flush=True)
        log = _Log(client, job)
        try:
            details = log.follow()
        except KeyboardInterrupt:
            print("\nstopping the job, with a checkpoint (once more: leave it alone)", flush=True)
            client.stop_job(job)
            try:
                details = log.follow()
            except KeyboardInterrupt:
                print(f"\n{job} is still ending on {address}.", flush=True)
                return 130
    return _exit_code(details)


def _check_command(command: Sequence[str], known: Sequence[str]) -> None:
    if not command:
        raise UserError(f"submit: give a command to run on the cluster: {listing(known)}.")
    if command[0] not in known:
        hint = did_you_mean(command[0], known)
        raise UserError(f"submit: {command[0]!r} is not a command; known are {listing(known)}.{hint}")


def _client(address: str) -> JobSubmissionClient:
    """Returns a client for the job server at `address`, which has answered and let us in."""
    import requests
    from ray.job_submission import JobSubmissionClient

    url = (address if "://" in address else f"http://{address}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: give the URL of the cluster's job server, such as http://HOST:8265.")
    headers: dict[str, str] = {}
    try:
        answer = requests.get(f"{url}/api/version", timeout=10)
        if answer.status_code == requests.codes.unauthorized and (token := find_token()):
            headers = {"Authorization": f"Bearer {token}"}
            answer = requests.get(f"{url}/api/version", headers=headers, timeout=10)
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"no Ray job server answers at {url}: is the cluster up, and is this its dashboard?") from error
    if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
        raise UserError(refusal(f"the Ray cluster at {url}"))
    if not answer.ok or "ray_version" not in answer.text:
        raise UserError(f"{url} answers, but not as a Ray job server: give the URL of the cluster's dashboard.")
    with _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # they would win over the address given
        return JobSubmissionClient(url, headers=headers)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Takes variables out of the environment for a while."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _start(
    client: JobSubmissionClient, command: Sequence[str], storage: str, folder: Path, excluded: Sequence[str]
) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "folder.zip"
        count = pack(folder, package, excluded)
        size = package.stat().st_size / 2**20
        print(f"sending {count} file{'' if count == 1 else 's'} of {folder} ({size:,.1f} MiB)", flush=True)
        environment: dict[str, Any] = {
            "working_dir": str(package),
            "py_modules": [str(PACKAGE_FOLDER)],
            "excludes": ["__pycache__"],
            "env_vars": {
                "PYTHONUNBUFFERED": "1",
                "UNROLLED_STORAGE": storage,
                "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
            },
        }
        try:
            entrypoint = shlex.join(["python", "-m", "unrolled", *command])
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"the cluster does not take the job: {error}") from error


class _Log:
    """The output of a job, of which it remembers how much was shown."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self._client = client
        self._job = job
        self._shown = 0

    def follow(self) -> JobDetails:
        """Shows what comes until the job has ended, over dropped connections; returns how it ended."""
        import aiohttp

        while True:
            with suppress(RuntimeError, OSError, aiohttp.ClientError):
                asyncio.run(self._tail())
            with suppress(OSError):
                details = self._client.get_job_info(self._job)
                if details.status.is_terminal():
                    self._show(self._client.get_job_logs(self._job)[self._shown :])
                    return details
            time.sleep(1)

    async def _tail(self) -> None:
        seen = 0  # a new connection starts at the beginning
        async for text in self._client.tail_job_logs(self._job):
            new = text[max(self._shown - seen, 0) :]
            seen += len(text)
            self._show(new)

    def _show(self, text: str) -> None:
        print(text, end="", flush=True)
        self._shown += len(text)


def _exit_code(details: JobDetails) -> int:
    code = details.driver_exit_code
    if code is None:  # it was stopped, or never started
        print(f"the job ended as {details.status}: {details.message or 'no reason given'}", flush=True)
        return 130 if details.status == "STOPPED" else 1
    return int(code) if code >= 0 else 128 - int(code)
