"""Submission of `unrolled` commands to a Ray cluster as jobs, with their output shown locally."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from unrolled.cluster.ray_session import PACKAGE_FOLDER, authentication_error, find_token, quiet
from unrolled.errors import UserError, did_you_mean, listing

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

STORAGE = "~/unrolled"
STOP_SECONDS = 300
"""Time that a stopped job has for its checkpoint before Ray kills it; Ray's default is 3."""
CREDENTIALS = (
    *(".env", ".env.*", ".netrc", ".pypirc", ".git-credentials"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.key", "*.p12"),
    *(".aws", ".ssh", ".kube", ".ray", "auth_token"),
)
EXCLUDES = (
    *CREDENTIALS,
    *("__pycache__", "*.pyc", "*.egg-info", ".*_cache", ".cache", ".hypothesis", ".ipynb_checkpoints", ".DS_Store"),
    *(".hg", ".svn", "node_modules", "runs"),
)
"""Patterns, as in .gitignore, of files that are never sent, in addition to Ray's own."""


def submit(
    address: str,
    command: Sequence[str],
    storage: str | None = None,
    *,
    known: Sequence[str],
    folder: Path | None = None,
) -> int:
    """Runs ``unrolled COMMAND…`` on a cluster and returns its exit code.

    Ray uploads the folder and this package with the job, so that configs and data files in the folder are found. Files
    that .gitignore or .rayignore names stay behind, and so do credentials (`EXCLUDES`). Output is printed as it
    arrives. Ctrl-C stops the job, which then leaves a checkpoint.

    Args:
        address: URL of the cluster's job server, ``http://HOST:8265``.
        command: the words after ``unrolled``, such as ``["train", "configs/a.yaml", "--workers", "8"]``.
        storage: folder on the cluster for relative run folders, since Ray deletes a job's own folder; ``~`` is the
            home folder there. Default: `STORAGE`.
        known: commands that may be submitted.
        folder: the folder to send; default: the current one.

    Raises:
        UserError: no job server answers, the token is wrong, the folder is too large or the command is unknown.
    """
    if not command:
        raise UserError(f"submit: give a command to run on the cluster: {listing(known)}.")
    if command[0] not in known:
        hint = did_you_mean(command[0], known)
        raise UserError(f"submit: {command[0]!r} is not a command; known are {listing(known)}.{hint}")
    storage, folder = storage or STORAGE, folder or Path.cwd()
    with quiet(None):
        client = _connect(address)
        check_size(folder)
        job = _start(client, command, storage, folder)
        print(f"{job} runs on {address}; relative run folders are in {storage} there. Ctrl-C stops it.", flush=True)
        output = _JobOutput(client, job)
        try:
            details = output.follow()
        except KeyboardInterrupt:
            print("\nstopping the job, with a checkpoint (once more: leave it alone)", flush=True)
            client.stop_job(job)
            try:
                details = output.follow()
            except KeyboardInterrupt:
                print(f"\n{job} is still ending on {address}.", flush=True)
                return 130
    return _exit_code(details)


def _connect(address: str) -> JobSubmissionClient:
    """Returns a client of the job server at `address`, which has answered and accepted the token."""
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
        raise UserError(authentication_error(f"the Ray cluster at {url}"))
    if not answer.ok or "ray_version" not in answer.text:
        raise UserError(f"{url} answers, but not as a Ray job server: give the URL of the cluster's dashboard.")
    with _without_variables("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # they would win over the address given
        return JobSubmissionClient(url, headers=headers)


@contextmanager
def _without_variables(*names: str) -> Iterator[None]:
    """While open, these environment variables are unset."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def check_size(folder: Path) -> None:
    """Prints what will be sent.

    Raises:
        UserError: the files exceed the size that Ray accepts; names the largest folders.
    """
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    sizes = files_to_send(folder)
    total = sum(sizes.values())
    if total < GCS_STORAGE_MAX_SIZE:
        print(f"sending {len(sizes)} file{'' if len(sizes) == 1 else 's'} of {folder} ({_mib(total)})", flush=True)
        return
    by_folder = Counter[str]()
    for path, size in sizes.items():
        by_folder["/".join(path.parts[:-1][:2]) + "/" if len(path.parts) > 1 else path.name] += size
    largest = ", ".join(f"{place} ({_mib(size)})" for place, size in by_folder.most_common(5))
    raise UserError(
        f"{folder} has {_mib(total)} of files, and Ray accepts at most {_mib(GCS_STORAGE_MAX_SIZE)} per job. "
        f"Largest: {largest}. List what the job does not need in .rayignore, or keep data where the cluster reads it."
    )


def files_to_send(folder: Path) -> dict[PurePath, int]:
    """Returns the files that Ray uploads with a job, as paths relative to `folder`, and their sizes in bytes."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[PurePath, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder)] = path.stat().st_size

    folder = folder.absolute()
    excludes = [_get_excludes(folder, [*get_runtime_env_default_excludes(), *EXCLUDES])]
    gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    _dir_travel(folder, excludes, add, include_gitignore=gitignore)
    return sizes


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _start(client: JobSubmissionClient, command: Sequence[str], storage: str, folder: Path) -> str:
    runtime_env: dict[str, Any] = {
        "working_dir": str(folder),
        "py_modules": [str(PACKAGE_FOLDER)],
        "excludes": list(EXCLUDES),
        "env_vars": {
            "PYTHONUNBUFFERED": "1",
            "UNROLLED_STORAGE": storage,
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        },
    }
    try:
        entrypoint = shlex.join(["python", "-m", "unrolled", *command])
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"the cluster does not take the job: {error}") from error


class _JobOutput:
    """The output of a job, printed once even where a connection is dropped."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self._client = client
        self._job = job
        self._printed = 0

    def follow(self) -> JobDetails:
        """Prints output until the job has ended; returns how it ended."""
        import aiohttp

        while True:
            with suppress(RuntimeError, OSError, aiohttp.ClientError):
                asyncio.run(self._tail())
            with suppress(OSError):
                details = self._client.get_job_info(self._job)
                if details.status.is_terminal():
                    self._print(self._client.get_job_logs(self._job)[self._printed :])
                    return details
            time.sleep(1)

    async def _tail(self) -> None:
        received = 0  # a new connection starts at the beginning
        async for text in self._client.tail_job_logs(self._job):
            new = text[max(self._printed - received, 0) :]
            received += len(text)
            self._print(new)

    def _print(self, text: str) -> None:
        print(text, end="", flush=True)
        self._printed += len(text)


def _exit_code(details: JobDetails) -> int:
    code = details.driver_exit_code
    if code is None:  # it was stopped, or never started
        print(f"the job ended as {details.status}: {details.message or 'no reason given'}", flush=True)
        return 130 if details.status == "STOPPED" else 1
    return int(code) if code >= 0 else 128 - int(code)
