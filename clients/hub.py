"""Data sets of the hub: from it, or from what an earlier time has left in the cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import httpx
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from fedsim.errors import BadInput, one_line, reading
from fedsim.hub import PATIENCE, ask


def hub_splits(name: str, repository: str, configuration: str | None, instead: str) -> Any:
    """Return the data set's splits, by name; from the cache alone where the hub does not answer.

    Args:
        name: what the user calls it.
        repository: what the hub calls it.
        configuration: which of its parts; None: its only one.
        instead: what else the user can do.

    Raises:
        BadInput: it is not on the hub, not in the cache, or no data set.
    """
    away = _unreachable(name, repository)
    try:
        with reading("datasets"):
            if away:
                return _kept_splits(repository, configuration)
            return datasets.load_dataset(repository, configuration)
    except BadInput as error:
        cause = error.__cause__
        why = f"({away}){_not_kept(cause)}" if away else f"({one_line(cause or error)})"
        raise BadInput(f"data.name {name!r} did not come from the hub {why}; {instead}") from cause


def _not_kept(cause: BaseException | None) -> str:
    """Say that nothing came from the cache, and why, where it was not that nothing is there."""
    why = "" if cause is None or isinstance(cause, OSError) else f" ({one_line(cause)})"
    return (
        f", nor from the cache{why}: {datasets.config.HF_DATASETS_CACHE} and "
        f"{constants.HF_HUB_CACHE}, which HF_HOME moves"
    )


def _unreachable(name: str, repository: str) -> str:
    """Say why the hub cannot be reached; "" if it can."""
    if datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so it was not asked"
    api = HfApi(endpoint=datasets.config.HF_ENDPOINT)
    try:
        ask(lambda: api.dataset_info(repository, timeout=PATIENCE))
    except RepositoryNotFoundError as error:
        raise BadInput(
            f"data.name {name!r}: the hub has no such data set, or a private one"
        ) from error
    except (OSError, ValueError, httpx.HTTPError) as error:
        return f"{one_line(error)}; with HF_HUB_OFFLINE=1 it is not asked"
    return ""


def _kept_splits(repository: str, configuration: str | None) -> Any:
    """Return what `datasets` has prepared before, or else what `hf download` has fetched."""
    with _cache_only():
        try:
            return datasets.load_dataset(repository, configuration)
        except OSError as error:  # never prepared
            try:
                folder = snapshot_download(repository, repo_type="dataset", local_files_only=True)
            except LocalEntryNotFoundError:
                raise error from None
            return datasets.load_dataset(folder, configuration)


@contextmanager
def _cache_only() -> Iterator[None]:
    """Keep `datasets` off the network: it would retry for 23 seconds before it gave up."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
