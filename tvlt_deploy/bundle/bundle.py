"""Reading a bundle: its manifest, and its files compared with the manifest.

docs/reference/bundle.md describes the layout. Importing this module loads the standard library only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tvlt_deploy._internal.atomic import sha256_of
from tvlt_deploy.bundle.manifest import (
    FUSED_FORM,
    MANIFEST_FILE,
    QUANTIZED,
    STANDARD_FORM,
    WEIGHTS_FILE,
    Engine,
    Manifest,
    Variant,
)
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import BundleError, ConfigError, UsageError
from tvlt_deploy.tasks import TASKS, Task


def is_bundle(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory contains a manifest."""
    return (Path(directory) / MANIFEST_FILE).is_file()


class Bundle:
    """A bundle opened for reading. `tvlt_deploy.bundle.writer` changes bundles.

    Opening reads the manifest only; `check` hashes files.

    Args:
        directory: The bundle's path.

    Attributes:
        directory: The bundle's path.
        manifest: The content of manifest.json.
        digest: SHA-256 of manifest.json, lower-case hexadecimal.
        task: The task of its graphs.

    Raises:
        BundleError: The directory is not a bundle, or its manifest is not one of this release (see
            `Manifest.from_json`).
    """

    manifest: Manifest
    digest: str
    task: Task

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise BundleError(f"{self.directory} is not a directory", hint="create a bundle with `tvlt-deploy export`")
        self.reload()

    def reload(self) -> None:
        """Read the manifest again, after a change on disk.

        Raises:
            BundleError: As for opening the bundle.
        """
        path = self.directory / MANIFEST_FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{self.directory} has no readable {MANIFEST_FILE}: {error.strerror}",
                hint="create a bundle with `tvlt-deploy export CHECKPOINT BUNDLE`",
            ) from error
        self.manifest = Manifest.from_json(content, str(path))
        self.digest = hashlib.sha256(content).hexdigest()
        self.task = TASKS[self.manifest.task]

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
        return self.manifest.variants

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All compiled engines."""
        return self.manifest.engines

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the graphs."""
        return tuple(dict.fromkeys(variant.precision for variant in self.variants))

    @property
    def has_weights(self) -> bool:
        """Whether the bundle contains the torch weights, which the `torch` backend and verification need."""
        return WEIGHTS_FILE in self.manifest.files

    def variant(self, precision: str, form: str = STANDARD_FORM) -> Variant:
        """The graph of a precision in a form.

        Args:
            precision: `fp32`, `fp16`, `bf16`, `int8` or `fp8`.
            form: A form of `tvlt_deploy.bundle.manifest`.

        Returns:
            The manifest's entry.

        Raises:
            UsageError: The bundle has no such graph.
        """
        for variant in self.variants:
            if (variant.precision, variant.form) == (precision, form):
                return variant
        listed = ", ".join(f"{variant.precision} ({variant.form})" for variant in self.variants) or "none"
        if (precision, form) == ("fp32", FUSED_FORM):
            hint = "tvlt-deploy fuse BUNDLE adds it"
        elif precision in self.precisions:
            forms = [variant.form for variant in self.variants if variant.precision == precision]
            hint = f"choose one of its forms: {', '.join(forms)}"
        elif precision in QUANTIZED:
            hint = "tvlt-deploy quantize BUNDLE --clips DIR adds it"
        else:
            exported = [name for name in (*self.precisions, precision) if name not in QUANTIZED]
            hint = " ".join(["export again with", *(f"--precision {name}" for name in exported)])
        raise UsageError(f"{self.directory} has no {precision} graph in the {form} form; it has {listed}", hint=hint)

    def path(self, name: str) -> Path:
        """The path of a file of the bundle, from its path in the manifest."""
        return self.directory / name

    def check(self, names: Iterable[str] | None = None) -> None:
        """Compare the size and SHA-256 of files with the manifest.

        Args:
            names: Paths relative to the bundle; None for all files.

        Raises:
            BundleError: A file is not listed, is missing, differs from the manifest or is a link out of the bundle.
        """
        root = self.directory.resolve()
        for name in self.manifest.files if names is None else names:
            expected = self.manifest.files.get(name)
            if expected is None:
                raise BundleError(f"{self.directory} lists no file {name!r}", hint="export the bundle again")
            path = self.directory / name
            if not path.is_file():
                raise BundleError(
                    f"{path} is missing from the bundle", hint="copy the complete bundle, or export it again"
                )
            if not path.resolve().is_relative_to(root):
                raise BundleError(f"{path} leads out of the bundle", hint="do not use this bundle")
            size = path.stat().st_size
            if size != expected.size:
                raise BundleError(
                    f"{path} has {size} bytes; the manifest says {expected.size}",
                    hint="the copy is incomplete or altered: copy the bundle again",
                )
            digest = sha256_of(path)
            if digest != expected.sha256:
                raise BundleError(
                    f"{path} has SHA-256 {digest}; the manifest says {expected.sha256}",
                    hint="the file was altered: copy the bundle again",
                )


BundleLike = str | os.PathLike[str] | Bundle
"""The path of a bundle, or an open one."""


def open_bundle(bundle: BundleLike) -> Bundle:
    """The bundle at a path; an open one is returned as it is.

    Raises:
        BundleError: As for `Bundle`.
    """
    return bundle if isinstance(bundle, Bundle) else Bundle(bundle)
