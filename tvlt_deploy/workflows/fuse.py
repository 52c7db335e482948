"""Add the fused graph to a bundle."""

from __future__ import annotations

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM, STANDARD_FORM, WEIGHTS_FILE
from tvlt_deploy.bundle.preprocessing import processor_of
from tvlt_deploy.bundle.writer import replace_graphs, staging, write_manifest
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE
from tvlt_deploy.runtimes import DEFAULT_BACKEND
from tvlt_deploy.workflows.verify import verify as run_verify

try:
    from tvlt_deploy.exporters.preprocessing.graph import check_fusable, write_fused
except ImportError as error:
    raise EnvironmentLackError(
        f"fusing needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export,cpu]'"
    ) from error


def fuse(
    bundle: BundleLike,
    *,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Add the fused graph to a bundle, or replace the one that it has. On any error the bundle is unchanged.

    Args:
        bundle: A bundle, or its path. It needs the fp32 graph and pre-processing of its own.
        verify: Compare the graph on raw clips with the processors and the reference; needs the bundle's weights.
        threads: Threads of the engine during verification; all cores by default.
        progress: Receives a line of text for each step.

    Returns:
        The bundle.

    Raises:
        UsageError: The task or the pre-processing has no fused graph, or the bundle is without the fp32 graph or, to
            verify, without weights.
        VerdictError: Verification failed.
        EnvironmentLackError: A package is missing.
    """
    opened = open_bundle(bundle)
    processor = check_fusable(opened.task, processor_of(opened), opened.directory)
    source = opened.variant("fp32", STANDARD_FORM)
    if verify and not opened.has_weights:
        raise UsageError(
            f"{opened.directory} was exported without weights, which the fused graph is verified against",
            hint="add it with --no-verify, or export again without --no-weights",
        )
    opened.check(source.files)
    with staging(opened, (CONFIG_FILE, PREPROCESSOR_FILE, *([WEIGHTS_FILE] if verify else []))) as stage:
        progress("writing the fused graph")
        variant = write_fused(opened.path(source.path), stage, opened.task, opened.config, processor)
        write_manifest(stage, opened.task, opened.config, [variant])
        if verify:
            run_verify(stage, backends=(DEFAULT_BACKEND,), threads=threads, progress=progress).raise_on_failure()
        replace_graphs(opened, Bundle(stage), (FUSED_FORM,))
    return opened
