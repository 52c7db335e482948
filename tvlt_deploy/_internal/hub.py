"""Models on the Hugging Face hub given in place of a local path: `namespace/name` or `namespace/name@revision`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.errors import CheckpointError, EnvironmentLackError, UsageError

# The hub's rule for names, and the revisions that fit into an address: branches, tags, commits.
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)


def local_path(
    path: str | os.PathLike[str],
    *,
    required: str,
    optional: Sequence[str] = (),
    one_of: Sequence[str] = (),
    progress: Progress = silent,
) -> Path:
    """The local path of a checkpoint; a model on the hub is downloaded into the hub's cache first.

    A path that exists locally, or that cannot be the name of a model, is never looked up on the hub. All files come
    from one revision, and files in the cache are not downloaded again. The address of the hub and the credentials are
    those of `huggingface_hub` (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN).

    Args:
        path: A local path, `namespace/name` or `namespace/name@revision`.
        required: The file that the model must have.
        optional: Files that are downloaded if the model has them.
        one_of: Alternatives, of which the first that exists is downloaded; for an index of shards, the shards too.
        progress: Receives a line of text for each download.

    Returns:
        `path` itself, or the directory of the cache with the downloaded files.

    Raises:
        UsageError: The hub has no such model or revision.
        EnvironmentLackError: `huggingface_hub`, the connection or the permission is missing.
        CheckpointError: The model has no file `required`.
    """
    match = _HUB_ID.fullmatch(os.fspath(path))
    if match is None or os.path.exists(path):
        return Path(path)
    model = _Model(match[1], match[2], progress)
    first = model.fetch(required)
    if first is None:
        raise CheckpointError(f"the model {model.name} on the hub has no {required}", hint="is it a TVLT model?")
    model.pin(first.parent.name)  # the cache names a snapshot's directory after its commit
    for name in optional:
        model.fetch(name)
    found = next((file for name in one_of if (file := model.fetch(name)) is not None), None)
    if found is not None and found.name.endswith(".index.json"):
        for name in _shards(found):
            model.fetch(name)
    return first.parent


def _shards(index: Path) -> Iterator[str]:
    """The files that an index of shards names; none for a broken index, which its reader reports."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    yield from sorted(name for name in names if isinstance(name, str) and name == Path(name).name)


class _Model:
    """A model on the hub at one revision."""

    def __init__(self, name: str, revision: str | None, progress: Progress) -> None:
        self.name, self.revision, self.progress = name, revision, progress
        self.pinned = False
        self.library: Any
        try:
            import huggingface_hub
            import huggingface_hub.errors
        except ImportError as error:
            raise EnvironmentLackError(
                f"{name} does not exist here, and downloading it from the hub needs huggingface_hub: {error}",
                hint="pip install 'tvlt-deploy[hub]'",
            ) from error
        self.library = huggingface_hub

    def pin(self, commit: str) -> None:
        """Use one commit from here on; the cache records which files a commit does not have."""
        self.revision, self.pinned = commit, True

    def fetch(self, file: str) -> Path | None:
        """The file's path in the cache; None if this revision has no such file."""
        known = self.library.try_to_load_from_cache(self.name, file, revision=self.revision) if self.pinned else None
        if known is not None:
            return Path(known) if isinstance(known, str) else None
        errors, title = self.library.errors, f"{self.name}@{self.revision}" if self.revision else self.name
        here = f"{title} does not exist here"
        self.progress(f"downloading {file} of {title}")
        try:
            return Path(self.library.hf_hub_download(self.name, file, revision=self.revision))
        except errors.LocalEntryNotFoundError as error:  # before EntryNotFoundError, its base class
            raise EnvironmentLackError(
                f"{here}; the hub cannot be reached and the cache has no {file} of it",
                hint="check the connection and HF_HUB_OFFLINE, or give the path of a local checkpoint",
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:  # before RepositoryNotFoundError, its base class
            raise EnvironmentLackError(
                f"{here}, and on the hub its owner grants access on request",
                hint="ask for access on its page, then set HF_TOKEN or log in with huggingface_hub",
            ) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise UsageError(
                f"{here}, and the hub has no public model of that name",
                hint="check the path or the name; a private model needs HF_TOKEN",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UsageError(
                f"the model {self.name} on the hub has no revision {self.revision}",
                hint="write a branch, a tag or a full commit hash after @",
            ) from error
        except Exception as error:  # errors of the connection differ between versions of the library
            raise EnvironmentLackError(
                f"{here}, and downloading {file} from the hub failed: {type(error).__name__}: {error}",
                hint="check the connection, or give the path of a local checkpoint",
            ) from error
