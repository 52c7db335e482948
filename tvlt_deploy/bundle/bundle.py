"""The bundle: a directory that says what it is, what each file must hash to, and how exact each graph is.

Layout and manifest fields are described in docs/reference/bundle.md. Reading costs the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from tvlt_deploy._internal.atomic import sha256_of, staged_file, sync_directory, write_json
from tvlt_deploy.bundle.manifest import (
    FUSED_FORM,
    MANIFEST_FILE,
    QUANTIZED,
    SCHEMA_VERSION,
    STANDARD_FORM,
    WEIGHTS_FILE,
    Engine,
    Variant,
)
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import BundleError, ConfigError, UsageError
from tvlt_deploy.tasks import TASKS, Task


def is_bundle(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds a manifest."""
    return (Path(directory) / MANIFEST_FILE).is_file()


class Bundle:
    """A bundle opened for reading.

    Opening reads the manifest only; `check` hashes files. Raises `BundleError` for a directory that is not a bundle,
    a manifest of another schema or a path that leaves the bundle.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        manifest_path = self.directory / MANIFEST_FILE
        if not self.directory.is_dir():
            raise BundleError(f"{self.directory} is not a directory", hint="make a bundle with `tvlt-deploy export`")
        try:
            content = manifest_path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{self.directory} holds no readable {MANIFEST_FILE}: {error.strerror}",
                hint="make a bundle with `tvlt-deploy export CHECKPOINT BUNDLE`",
            ) from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.manifest = self._parse(content)
        self.task: Task = TASKS[self.manifest["task"]]

    def _parse(self, content: bytes) -> dict[str, Any]:
        name = self.directory / MANIFEST_FILE
        try:
            manifest = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{name} is not JSON: {error}", hint="export the bundle again") from error
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{name} has schema_version {version!r}; expected {SCHEMA_VERSION}",
                hint="upgrade the bundle with `tvlt-deploy export OLD NEW`"
                if version == 1
                else "use the release that wrote it, or export the bundle again",
            )
        try:
            if manifest["task"] not in TASKS:
                raise BundleError(f"{name} names the task {manifest['task']!r}; known are {', '.join(TASKS)}")
            for entry in manifest["files"].values():
                if not isinstance(entry["sha256"], str) or not isinstance(entry["size"], int):
                    raise TypeError("a file's sha256 or size")
            for table in ("inputs", "outputs"):
                for spec in manifest[table].values():
                    if not isinstance(spec["dtype"], str) or not isinstance(spec["shape"], list):
                        raise TypeError(f"the dtype or shape of one of the {table}")
            paths = list(manifest["files"])
            for variant in manifest["variants"]:
                self._variant(variant)
                paths += [variant["path"], *variant["files"]]
            paths += [self._engine(entry).path for entry in manifest["engines"]]
            for path in paths:
                if not isinstance(path, str):
                    raise TypeError(f"a path, which is {path!r}")
        except BundleError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BundleError(f"{name} lacks or misshapes {error}", hint="export the bundle again") from error
        for path in paths:
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in path:
                raise BundleError(f"{name} names {path!r}, which is outside the bundle", hint="do not use this bundle")
            if path not in manifest["files"]:
                raise BundleError(f"{name} uses {path!r} but lists no hash for it", hint="export the bundle again")
        return dict(manifest)

    @staticmethod
    def _variant(entry: Mapping[str, Any]) -> Variant:
        for name, kind in (("precision", str), ("form", str), ("opset", int)):
            if not isinstance(entry[name], kind):
                raise TypeError(f"a graph's {name}, which is {entry[name]!r}")
        if not isinstance(entry["parity"]["verdict"], str):
            raise TypeError("a graph's verdict")
        return Variant(
            precision=entry["precision"],
            form=entry["form"],
            path=entry["path"],
            files=tuple(entry["files"]),
            opset=entry["opset"],
            parity=dict(entry["parity"]),
        )

    @staticmethod
    def _engine(entry: Mapping[str, Any]) -> Engine:
        values = {item.name: entry[item.name] for item in fields(Engine)}
        return Engine(
            **{
                **values,
                "profiles": tuple(dict(profile) for profile in entry["profiles"]),
                "receipt": dict(entry["receipt"]),
                "verdict": dict(entry["verdict"]),
            }
        )

    @cached_property
    def config(self) -> TvltConfig:
        """The model's configuration; the file is hashed before it is parsed."""
        self.check([CONFIG_FILE])
        try:
            return TvltConfig.from_json_file(self.directory / CONFIG_FILE)
        except ConfigError as error:
            raise BundleError(str(error)) from error

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All graphs."""
        return tuple(self._variant(entry) for entry in self.manifest["variants"])

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All compiled engines."""
        return tuple(self._engine(entry) for entry in self.manifest["engines"])

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions there are graphs for."""
        return tuple(dict.fromkeys(variant.precision for variant in self.variants))

    @property
    def has_weights(self) -> bool:
        """Whether the bundle holds the torch weights, which the `torch` backend and parity need."""
        return WEIGHTS_FILE in self.manifest["files"]

    def variant(self, precision: str, form: str = STANDARD_FORM) -> Variant:
        """The graph of a precision in a form. Raises `UsageError` naming what the bundle holds."""
        for variant in self.variants:
            if (variant.precision, variant.form) == (precision, form):
                return variant
        held = ", ".join(f"{variant.precision} ({variant.form})" for variant in self.variants) or "none"
        if (precision, form) == ("fp32", FUSED_FORM):
            hint = "tvlt-deploy fuse BUNDLE adds it"
        elif precision in QUANTIZED:
            hint = "tvlt-deploy quantize BUNDLE --clips DIR adds it"
        else:
            wanted = [name for name in (*self.precisions, precision) if name not in QUANTIZED]
            hint = " ".join(["export again with", *(f"--precision {name}" for name in wanted)])
        raise UsageError(f"{self.directory} holds no {precision} graph in the {form} form; it holds {held}", hint=hint)

    def path(self, name: str) -> Path:
        """The place of a file of the bundle."""
        return self.directory / name

    def check(self, names: Iterable[str] | None = None) -> None:
        """Compare size and SHA-256 of the named files (all by default) with the manifest. Raises `BundleError`."""
        root = self.directory.resolve()
        for name in self.manifest["files"] if names is None else names:
            wanted = self.manifest["files"].get(name)
            if wanted is None:
                raise BundleError(f"{self.directory} lists no file {name!r}", hint="export the bundle again")
            path = self.directory / name
            if not path.is_file():
                raise BundleError(f"{path} is missing from the bundle", hint="copy the bundle whole, or export again")
            if not path.resolve().is_relative_to(root):
                raise BundleError(f"{path} leads out of the bundle", hint="do not use this bundle")
            size = path.stat().st_size
            if size != wanted["size"]:
                raise BundleError(
                    f"{path} has {size} bytes; the manifest says {wanted['size']}",
                    hint="the copy is incomplete or altered: copy the bundle again",
                )
            digest = sha256_of(path)
            if digest != wanted["sha256"]:
                raise BundleError(
                    f"{path} has SHA-256 {digest}; the manifest says {wanted['sha256']}",
                    hint="the file was altered: copy the bundle again",
                )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory's advisory lock, which dies with the process and leaves no file behind."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Apply `change` to the manifest as it is on disk now and replace the file, under a lock."""
        with self._locked():
            self._change(change)

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        manifest = self._parse((self.directory / MANIFEST_FILE).read_bytes())
        change(manifest)
        self._parse(json.dumps(manifest).encode())  # nothing is written that could not be read again
        write_json(self.directory / MANIFEST_FILE, manifest)
        content = (self.directory / MANIFEST_FILE).read_bytes()
        self.digest, self.manifest = hashlib.sha256(content).hexdigest(), self._parse(content)

    def add_engine(self, engine: Engine, content: bytes | memoryview) -> None:
        """Write an engine into the bundle, in place of one of the same path. The manifest never names half a file."""

        def drop(manifest: dict[str, Any]) -> None:
            manifest["engines"] = [entry for entry in manifest["engines"] if entry["path"] != engine.path]
            manifest["files"].pop(engine.path, None)

        def add(manifest: dict[str, Any]) -> None:
            manifest["files"][engine.path] = {"sha256": digest, "size": path.stat().st_size}
            manifest["files"] = dict(sorted(manifest["files"].items()))
            manifest["engines"].append(engine.to_dict(manifest["files"]))

        path = self.path(engine.path)
        with self._locked():
            if path.exists():
                self._change(drop)
            with staged_file(path) as temporary:
                temporary.write_bytes(content)
                digest = sha256_of(temporary)
            self._change(add)

    @contextlib.contextmanager
    def staging(self, names: Iterable[str]) -> Iterator[Path]:
        """A directory inside the bundle that holds its files `names` and takes new ones; removed in the end."""
        stage = Path(tempfile.mkdtemp(prefix=".staged.", dir=self.directory))
        try:
            for name in names:
                try:
                    os.link(self.path(name), stage / name)
                except OSError:  # a file system without links
                    shutil.copy2(self.path(name), stage / name)
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def replace_graphs(
        self, stage: Bundle, directories: Iterable[str], entries: Mapping[str, Any] | None = None
    ) -> None:
        """Move directories of graphs out of a staged bundle into this one, in place of those that stand here.

        stage: a bundle on the same file system; a directory that it lacks is removed here, engines and all. entries:
        become top-level entries of the manifest. At every moment the manifest describes what stands there: old graphs
        leave it before their files go, new ones enter it after theirs came. On failure everything is put back.
        """
        names, added = tuple(directories), dict(entries or {})

        def goes(entry: Mapping[str, Any]) -> bool:
            return PurePosixPath(entry["path"]).parts[0] in names

        def drop(manifest: dict[str, Any]) -> None:
            for entry in filter(goes, manifest["variants"]):
                for file in entry["files"]:
                    manifest["files"].pop(file, None)
            for entry in filter(goes, manifest["engines"]):
                manifest["files"].pop(entry["path"], None)
            for kind in ("variants", "engines"):
                manifest[kind] = [entry for entry in manifest[kind] if not goes(entry)]
            for entry in added:
                manifest.pop(entry, None)

        def add(manifest: dict[str, Any]) -> None:
            for entry in stage.manifest["variants"]:
                manifest["variants"].append(entry)
                manifest["files"] |= {file: stage.manifest["files"][file] for file in entry["files"]}
            manifest["files"] = dict(sorted(manifest["files"].items()))
            manifest.update(added)

        with self._locked():
            retired = Path(tempfile.mkdtemp(prefix=".retired.", dir=self.directory))
            before = json.loads((self.directory / MANIFEST_FILE).read_bytes())
            try:
                self._change(drop)
                self._move(names, self.directory, retired)
                self._move(names, stage.directory, self.directory)
                self._change(add)
            except BaseException:
                stood = {PurePosixPath(entry["path"]).parts[0] for entry in before["variants"]}
                for name in names:
                    if (retired / name).exists() or name not in stood:
                        shutil.rmtree(self.directory / name, ignore_errors=True)
                self._move(names, retired, self.directory)
                write_json(self.directory / MANIFEST_FILE, before)
                raise
            finally:
                shutil.rmtree(retired, ignore_errors=True)

    @staticmethod
    def _move(names: Iterable[str], source: Path, target: Path) -> None:
        """Move the directories of that name that there are, their content on disk first."""
        for name in names:
            if (source / name).is_dir():
                sync_directory(source / name)
                os.replace(source / name, target / name)
        sync_directory(target, files=False)

    def record_parity(self, path: str, parity: Mapping[str, Any]) -> None:
        """Write a graph's or an engine's verdict into the manifest."""

        def change(manifest: dict[str, Any]) -> None:
            for key, entries in (("parity", manifest["variants"]), ("verdict", manifest["engines"])):
                for entry in entries:
                    if entry["path"] == path:
                        entry[key] = dict(parity)

        self.update(change)


BundleLike = str | os.PathLike[str] | Bundle
"""The path of a bundle, or one that is open."""


def open_bundle(bundle: BundleLike) -> Bundle:
    """The bundle at a path; one that is open is returned as it is. Raises `BundleError` as `Bundle` does."""
    return bundle if isinstance(bundle, Bundle) else Bundle(bundle)
