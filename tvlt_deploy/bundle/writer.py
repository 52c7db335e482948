"""Writing bundles: the manifest of a new one, and changes of an existing one under a lock.

A reader sees the old manifest or the new one, and at every moment the files that the manifest lists exist.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from tvlt_deploy._internal.atomic import sha256_of, staged_file, sync_directory, write_json, write_text
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle import changes
from tvlt_deploy.bundle.bundle import Bundle
from tvlt_deploy.bundle.limits import input_limits
from tvlt_deploy.bundle.manifest import MANIFEST_FILE, Engine, FileEntry, Manifest, Origin, StoredVerdict, Variant
from tvlt_deploy.bundle.receipts import Calibration, ExportReceipts
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors.recipe import read_recipe, recipe_file
from tvlt_deploy.tasks import Task

Change = Callable[[Manifest], Manifest]

NO_RECEIPTS = ExportReceipts(skipped_keys=(), versions={})


def file_entry(path: Path) -> FileEntry:
    """The SHA-256 and size of a file."""
    return FileEntry(sha256_of(path), path.stat().st_size)


def write_manifest(
    directory: Path,
    task: Task,
    config: TvltConfig,
    variants: Iterable[Variant],
    receipts: ExportReceipts = NO_RECEIPTS,
) -> None:
    """Hash every file below a directory and write its manifest.

    Args:
        directory: The new bundle, complete except for the manifest.
        task: Task of the graphs.
        config: The model's configuration.
        variants: The graphs.
        receipts: What the export reports.
    """
    activation = task.activation(config)
    head = config.original_head if activation else None
    recipe = recipe_file(directory)
    manifest = Manifest(
        created_by=f"tvlt-deploy {__version__}",
        lineage=config.lineage,
        original=None if config.original_kind is None else Origin(config.original_kind, head),
        task=task.name,
        activation=activation,
        labels=task.labels(config),
        sign_labels=config.sign_labels if task.labelled else None,
        limits=input_limits(config, None if recipe is None else read_recipe(recipe)),
        inputs=task.inputs(config),
        outputs=task.outputs(config),
        variants=tuple(variants),
        engines=(),
        files={
            path.relative_to(directory).as_posix(): file_entry(path)
            for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != MANIFEST_FILE
        },
        receipts=receipts,
    )
    write_json(directory / MANIFEST_FILE, manifest.to_dict())


def update_manifest(bundle: Bundle, change: Change) -> None:
    """Replace the manifest by a changed one, under the bundle's lock.

    Args:
        bundle: The bundle; it is read again.
        change: Returns the new manifest for the one that is on disk now.

    Raises:
        BundleError: The new manifest could not be read again; nothing is written.
        OSError: The directory cannot be written.
    """
    with _locked(bundle.directory):
        _change(bundle, change)


def record_verdict(bundle: Bundle, path: str, verdict: StoredVerdict) -> None:
    """Write the verdict of a graph or an engine into the manifest.

    Args:
        bundle: The bundle; it is read again.
        path: The graph or engine, relative to the bundle.
        verdict: Its new verdict.

    Raises:
        OSError: The directory cannot be written.
    """
    update_manifest(bundle, lambda manifest: changes.with_verdict(manifest, path, verdict))


def add_engine(bundle: Bundle, engine: Engine, content: bytes | memoryview) -> None:
    """Write an engine into the bundle; one of the same path is replaced.

    Args:
        bundle: The bundle; it is read again.
        engine: The manifest's entry.
        content: The bytes of the engine file.

    Raises:
        OSError: The directory cannot be written.
    """
    path = bundle.path(engine.path)
    with _locked(bundle.directory):
        if path.exists():
            _change(bundle, lambda manifest: changes.without_engine(manifest, engine.path))
        with staged_file(path) as temporary:
            temporary.write_bytes(content)
            entry = file_entry(temporary)
        _change(bundle, lambda manifest: changes.with_engine(manifest, engine, entry))


@contextlib.contextmanager
def staging(bundle: Bundle, names: Iterable[str]) -> Iterator[Path]:
    """A directory for new graphs on the bundle's file system.

    Args:
        bundle: The bundle.
        names: Files of the bundle that the directory starts with.

    Yields:
        A directory inside the bundle. It is removed in the end.

    Raises:
        OSError: The bundle cannot be written.
    """
    stage = Path(tempfile.mkdtemp(prefix=".staged.", dir=bundle.directory))
    try:
        for name in names:
            try:
                os.link(bundle.path(name), stage / name)
            except OSError:  # a file system without hard links
                shutil.copy2(bundle.path(name), stage / name)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def replace_graphs(
    bundle: Bundle, stage: Bundle, directories: Collection[str], calibration: Calibration | None = None
) -> None:
    """Move directories of graphs from a staged bundle into this one, in place of the existing ones.

    Old graphs leave the manifest before their files are moved, new ones enter it after theirs. On failure everything
    is put back.

    Args:
        bundle: The bundle; it is read again.
        stage: A bundle on the same file system.
        directories: Directories of the bundle. One that `stage` does not have is removed, with its engines.
        calibration: Replaces the receipt in the manifest; None keeps it.

    Raises:
        OSError: The directory cannot be written.
    """

    def drop(manifest: Manifest) -> Manifest:
        kept = changes.without_graphs(manifest, directories)
        return kept if calibration is None else replace(kept, calibration=None)

    def add(manifest: Manifest) -> Manifest:
        added = changes.with_graphs_of(manifest, stage.manifest)
        return added if calibration is None else replace(added, calibration=calibration)

    with _locked(bundle.directory):
        retired = Path(tempfile.mkdtemp(prefix=".retired.", dir=bundle.directory))
        path = bundle.directory / MANIFEST_FILE
        before = path.read_text(encoding="utf-8")
        try:
            _change(bundle, drop)
            _move(directories, bundle.directory, retired)
            _move(directories, stage.directory, bundle.directory)
            _change(bundle, add)
        except BaseException:
            _put_back(bundle, directories, retired, before)
            raise
        finally:
            shutil.rmtree(retired, ignore_errors=True)


def _put_back(bundle: Bundle, directories: Collection[str], retired: Path, before: str) -> None:
    """Restore directories of graphs and the manifest after a failed change."""
    path = bundle.directory / MANIFEST_FILE
    manifest = Manifest.from_json(before.encode(), str(path))
    existed = {PurePosixPath(variant.path).parts[0] for variant in manifest.variants}
    for name in directories:
        if (retired / name).exists() or name not in existed:
            shutil.rmtree(bundle.directory / name, ignore_errors=True)
    _move(directories, retired, bundle.directory)
    write_text(path, before)
    bundle.reload()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory's advisory lock. It ends with the process and leaves no file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _change(bundle: Bundle, change: Change) -> None:
    path = bundle.directory / MANIFEST_FILE
    values = change(Manifest.from_json(path.read_bytes(), str(path))).to_dict()
    Manifest.from_json(json.dumps(values).encode(), str(path))  # nothing is written that could not be read again
    write_json(path, values)
    bundle.reload()


def _move(names: Iterable[str], source: Path, target: Path) -> None:
    """Move the directories of these names that exist, with their content synced to disk first."""
    for name in names:
        if (source / name).is_dir():
            sync_directory(source / name)
            os.replace(source / name, target / name)
    sync_directory(target, files=False)
