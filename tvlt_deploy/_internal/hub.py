"""Models of the Hugging Face hub where a local path is wanted: `namespace/name`, or `namespace/name@revision`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.errors import CheckpointError, EnvironmentLackError, UsageError

# The hub's rule for names, and the revisions that can stand in an address: branches, tags, commits.
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)


def local_path(
    path: str | os.PathLike[str],
    *,
    required: str,
    optional: Sequence[str] = (),
    one_of: Sequence[str] = (),
    progress: Progress = silent,
) -> Path:
    """`path` as it is, or the directory of the hub's cache that a model's files were fetched to.

    What exists here is never looked for on the hub, and neither is what cannot be the name of a model. Fetched are, in
    one revision, the file `required`, those of `optional` that there are, and the first of `one_of` that there is
    (for an index of shards, the shards too); what the cache holds is not fetched again. Where the hub is, and who asks,
    is up to `huggingface_hub` (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN).

    Raises `UsageError` for a model or revision that is not there, `EnvironmentLackError` without `huggingface_hub`,
    connection or permission, `CheckpointError` for a model without `required`.
    """
    match = _HUB_ID.fullmatch(os.fspath(path))
    if match is None or os.path.exists(path):
        return Path(path)
    model = _Model(match[1], match[2], progress)
    first = model.fetch(required)
    if first is None:
        raise CheckpointError(f"the model {model.name} on the hub holds no {required}", hint="is it a TVLT model?")
    model.pin(first.parent.name)  # the cache names a snapshot's directory after its commit
    for name in optional:
        model.fetch(name)
    found = next((file for name in one_of if (file := model.fetch(name)) is not None), None)
    if found is not None and found.name.endswith(".index.json"):
        for name in _shards(found):
            model.fetch(name)
    return first.parent


def _shards(index: Path) -> Iterator[str]:
    """The files that an index of shards names; whoever reads the index says what is wrong with it."""
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
                f"{name} does not exist here, and to look for it on the hub huggingface_hub is needed: {error}",
                hint="pip install 'tvlt-deploy[hub]'",
            ) from error
        self.library = huggingface_hub

    def pin(self, commit: str) -> None:
        """Take all that follows from one commit, of which the cache remembers for good what it lacks."""
        self.revision, self.pinned = commit, True

    def fetch(self, file: str) -> Path | None:
        """The file's place in the cache; None when this revision has no such file."""
        known = self.library.try_to_load_from_cache(self.name, file, revision=self.revision) if self.pinned else None
        if known is not None:
            return Path(known) if isinstance(known, str) else None
        errors, whole = self.library.errors, f"{self.name}@{self.revision}" if self.revision else self.name
        here = f"{whole} does not exist here"
        self.progress(f"fetching {file} of {whole}")
        try:
            return Path(self.library.hf_hub_download(self.name, file, revision=self.revision))
        except errors.LocalEntryNotFoundError as error:  # before EntryNotFoundError, of which it is a kind
            raise EnvironmentLackError(
                f"{here}; the hub cannot be reached and its cache holds no {file} of it",
                hint="check the connection and HF_HUB_OFFLINE, or give the path of a local checkpoint",
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:  # before RepositoryNotFoundError, of which it is a kind
            raise EnvironmentLackError(
                f"{here}, and on the hub its owner grants access one by one",
                hint="ask for access on its page, then set HF_TOKEN or log in with huggingface_hub",
            ) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise UsageError(
                f"{here}, and the hub has no such model, or not for everybody",
                hint="check the path or the name; a private model needs HF_TOKEN",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UsageError(
                f"the model {self.name} on the hub has no revision {self.revision}",
                hint="after @ comes a branch, a tag or a whole commit",
            ) from error
        except Exception as error:  # what the connection and the library raise, which differs between versions
            raise EnvironmentLackError(
                f"{here}, and fetching {file} from the hub failed: {type(error).__name__}: {error}",
                hint="check the connection, or give the path of a local checkpoint",
            ) from error
