"""Bundles: directories of graphs with a manifest that states every file's hash and every graph's verdict."""

from tvlt_deploy.bundle.bundle import Bundle, BundleLike, is_bundle, open_bundle
from tvlt_deploy.bundle.manifest import Engine, Manifest, Variant

__all__ = ["Bundle", "BundleLike", "Engine", "Manifest", "Variant", "is_bundle", "open_bundle"]
