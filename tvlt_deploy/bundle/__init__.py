"""The bundle: a directory that says what it is, what each file must hash to, and how exact each graph is."""

from tvlt_deploy.bundle.bundle import Bundle, BundleLike, is_bundle, open_bundle
from tvlt_deploy.bundle.manifest import Engine, Variant

__all__ = ["Bundle", "BundleLike", "Engine", "Variant", "is_bundle", "open_bundle"]
