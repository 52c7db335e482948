"""The reference classes by the names that `config.json` has in `architectures`."""

from __future__ import annotations

from tvlt_deploy.errors import UsageError
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.heads import TvltForAudioVisualClassification, TvltForPreTraining
from tvlt_deploy.reference.model import TvltModel

_CLASSES: dict[str, type[PretrainedModule]] = {
    kind.__name__: kind for kind in (TvltForAudioVisualClassification, TvltForPreTraining, TvltModel)
}


def class_named(name: str) -> type[PretrainedModule]:
    """The reference class of that name.

    Raises:
        UsageError: There is no such class; the message lists those there are.
    """
    if name not in _CLASSES:
        raise UsageError(f"architecture is {name!r}; expected one of {', '.join(_CLASSES)}")
    return _CLASSES[name]
