"""Add the fused graph to a bundle."""

from __future__ import annotations

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import STANDARD_FORM, WEIGHTS_FILE
from tvlt_deploy.bundle.preprocessing import processor_of
from tvlt_deploy.bundle.writer import replace_graphs, staging, write_manifest
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.processors import OriginalProcessor, TvltProcessor
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE
from tvlt_deploy.runtimes import DEFAULT_BACKEND
from tvlt_deploy.workflows.verify import verify as run_verify

try:
    from tvlt_deploy.exporters.preprocessing.audio import check_feature_extractor
    from tvlt_deploy.exporters.preprocessing.graph import DIRECTORY, check_task, write_fused
    from tvlt_deploy.exporters.preprocessing.image import check_image_processor
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
    """Add the fused graph to a bundle, in place of one that it holds.

    bundle: one with the fp32 graph and pre-processing of its own.
    verify: measure the graph on raw clips against processors and reference, which needs the bundle's weights; a miss
        raises `VerdictError`.

    On any error the bundle is as it was. Raises `UsageError` for a task or pre-processing that is not fused, and for a
    bundle that lacks the fp32 graph or, to verify, the weights.
    """
    opened = open_bundle(bundle)
    check_task(opened.task)
    processor = read_processor(opened)
    source = opened.variant("fp32", STANDARD_FORM)
    if verify and not opened.has_weights:
        raise UsageError(
            f"{opened.directory} was exported without weights, which the fused graph is verified against",
            hint="add it with --no-verify, or export again without --no-weights",
        )
    opened.check(source.files)
    with staging(opened, (CONFIG_FILE, PREPROCESSOR_FILE, *([WEIGHTS_FILE] if verify else []))) as stage:
        progress("writing the fused graph")
        variant = write_fused(opened.path(source.path), stage, opened.task, opened.config, processor, source.opset)
        write_manifest(stage, opened.task, opened.config, [variant])
        if verify:
            run_verify(stage, backends=(DEFAULT_BACKEND,), threads=threads, progress=progress).raise_on_failure()
        replace_graphs(opened, Bundle(stage), (DIRECTORY,))
    return opened


def read_processor(bundle: Bundle) -> TvltProcessor:
    """A bundle's pre-processing. Raises `UsageError` where the graph does not reproduce it."""
    processor = processor_of(bundle)
    if isinstance(processor, OriginalProcessor):
        raise UsageError(
            f"{bundle.directory} is pre-processed by the original recipe ({processor.file_name}), which is not fused",
            hint="use the pipeline, or prepare the tensors yourself",
        )
    if not isinstance(processor, TvltProcessor):
        raise UsageError(f"{bundle.directory} holds no {PREPROCESSOR_FILE}; there is nothing to fuse")
    check_image_processor(processor.image_processor)
    check_feature_extractor(processor.feature_extractor)
    return processor
