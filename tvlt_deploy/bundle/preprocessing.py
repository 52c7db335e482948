"""The pre-processing of a bundle."""

from __future__ import annotations

from tvlt_deploy.bundle.bundle import Bundle
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.processors import Processor
from tvlt_deploy.processors.recipe import read_recipe, recipe_file


def processor_of(bundle: Bundle) -> Processor | None:
    """A bundle's pre-processing; its file is hashed before it is read.

    Args:
        bundle: The bundle.

    Returns:
        The processor, or None if the bundle has none.

    Raises:
        FileRefusedError: The bundle lists two kinds of pre-processing, or the file is altered or broken.
    """
    file = recipe_file(bundle.directory, bundle.manifest.files)
    if file is None:
        return None
    bundle.check([file.name, CONFIG_FILE])
    return read_recipe(file)
