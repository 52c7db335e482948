"""Changes of a manifest: each returns a new manifest and leaves the old one as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from tvlt_deploy.bundle.manifest import Engine, FileEntry, Manifest, StoredVerdict


def with_file(manifest: Manifest, path: str, entry: FileEntry) -> Manifest:
    """Add a file, or replace the entry of one."""
    return replace(manifest, files=_sorted({**manifest.files, path: entry}))


def without_files(manifest: Manifest, *paths: str) -> Manifest:
    """Remove files that no graph or engine uses; a path that is not listed is ignored."""
    return replace(manifest, files={path: entry for path, entry in manifest.files.items() if path not in paths})


def with_verdict(manifest: Manifest, path: str, verdict: StoredVerdict) -> Manifest:
    """Replace the verdict of the graph or engine at `path`."""
    return replace(
        manifest,
        variants=tuple(replace(item, parity=verdict) if item.path == path else item for item in manifest.variants),
        engines=tuple(replace(item, verdict=verdict) if item.path == path else item for item in manifest.engines),
    )


def with_engine(manifest: Manifest, engine: Engine, entry: FileEntry) -> Manifest:
    """Add an engine and its file."""
    return with_file(replace(manifest, engines=(*manifest.engines, engine)), engine.path, entry)


def without_engine(manifest: Manifest, path: str) -> Manifest:
    """Remove the engine at `path` and its file."""
    engines = tuple(engine for engine in manifest.engines if engine.path != path)
    return without_files(replace(manifest, engines=engines), path)


def with_graphs_of(manifest: Manifest, other: Manifest) -> Manifest:
    """Add the graphs of another manifest and their files."""
    added = {file: other.files[file] for variant in other.variants for file in variant.files}
    return replace(manifest, variants=(*manifest.variants, *other.variants), files=_sorted({**manifest.files, **added}))


def without_graphs(manifest: Manifest, directories: Collection[str]) -> Manifest:
    """Remove the graphs and engines in these directories of the bundle, and their files."""
    in_them = lambda path: PurePosixPath(path).parts[0] in directories  # noqa: E731
    gone = [file for variant in manifest.variants if in_them(variant.path) for file in variant.files]
    gone += [engine.path for engine in manifest.engines if in_them(engine.path)]
    kept = replace(
        manifest,
        variants=tuple(variant for variant in manifest.variants if not in_them(variant.path)),
        engines=tuple(engine for engine in manifest.engines if not in_them(engine.path)),
    )
    return without_files(kept, *gone)


def _sorted(files: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    return dict(sorted(files.items()))
