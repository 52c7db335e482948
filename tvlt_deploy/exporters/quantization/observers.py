"""Statistics of the inputs of linear layers, over any number of clips, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from tvlt_deploy.errors import InputError
from tvlt_deploy.exporters.inference_model import Classification, Layer, Matching, Reconstruction
from tvlt_deploy.exporters.quantization.histogram import Histogram

READERS: Mapping[str, tuple[str, ...]] = {
    "key": ("query", "key", "value"),
    "project": ("project",),
    "expand": ("expand",),
    "contract": ("contract",),
}
"""In a `Layer`: the linear layer whose input is observed -> all linear layers with the same input."""


def transformer_layers(form: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The transformer layers of an inference form by name; layers that two decoders share appear once."""
    return ((name, module) for name, module in form.named_modules() if isinstance(module, Layer))


def linear_layers(form: nn.Module) -> dict[str, tuple[str, ...]]:
    """The linear layers to quantize: name -> all names of the layer, two where decoders share it.

    They are those of the transformer layers, except the ones with a single token as input, in the last layer before a
    classifier: these cost no time, and quantizing them doubles the error of the answer.
    """
    named = dict(form.named_modules(remove_duplicate=False))
    layers = {
        f"{name}.{reader}": tuple(f"{other}.{reader}" for other in named if named[other] is layer)
        for name, layer in transformer_layers(form)
        for readers in READERS.values()
        for reader in readers
    }
    if isinstance(form, Classification | Matching):
        last = f"encoder.layers.{len(form.encoder.layers) - 1}"
        for reader in ("query", "project", "expand", "contract"):
            layers.pop(f"{last}.{reader}", None)
    return layers


class Observer:
    """The magnitudes of one tensor: the largest of each channel, and their histogram.

    Args:
        name: The layer whose input it is.
        readers: All layers that read the tensor.
        counting: Fill the histogram; otherwise only its `largest`.

    Attributes:
        channels: The largest magnitude of each channel, (channels,); None before the first update.
        histogram: The magnitudes of all channels together.
    """

    def __init__(self, name: str, readers: tuple[str, ...], counting: bool = True) -> None:
        self.name, self.readers, self.counting = name, readers, counting
        self.channels: Tensor | None = None
        self.histogram = Histogram()

    def update(self, values: Tensor) -> None:
        """Count values (tokens, channels).

        Raises:
            InputError: A value is NaN or infinite.
        """
        magnitudes = values.abs()
        peaks = magnitudes.amax(dim=0)
        if not torch.isfinite(peaks).all():
            raise InputError(
                f"the input of {self.name} has NaN or infinity; expected finite values",
                hint="look for damaged weights, or leave the clip out",
            )
        self.channels = peaks if self.channels is None else torch.maximum(self.channels, peaks)
        if self.counting:
            self.histogram.add(magnitudes.numpy())
        else:
            self.histogram.largest = float(self.channels.max())


class Watch:
    """Observers on the inputs of all linear layers of the transformer layers, inside a `with` block.

    Padding is not counted. In a layer without a mask (the decoders) all tokens count.

    Args:
        form: An inference form.
        counting: As for `Observer`.

    Attributes:
        observers: The observer of each layer name.
    """

    def __init__(self, form: nn.Module, counting: bool = True) -> None:
        self.form = form
        self.class_token = not isinstance(form, Reconstruction) or form.config.mae_class_token
        self.observers = {
            f"{name}.{watched}": Observer(
                f"{name}.{watched}", tuple(f"{name}.{reader}" for reader in readers), counting
            )
            for name, _ in transformer_layers(form)
            for watched, readers in READERS.items()
        }
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, layer in transformer_layers(self.form):
            self._watch(name, layer)
        return self

    def _watch(self, name: str, layer: Layer) -> None:
        valid: Tensor | None = None

        def remember(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal valid
            valid = inputs[1]

        self._hooks.append(layer.register_forward_pre_hook(remember))
        for watched in READERS:
            observer = self.observers[f"{name}.{watched}"]

            def count(module: nn.Module, inputs: tuple[Any, ...], observer: Observer = observer) -> None:
                observer.update(_counted(inputs[0], valid, self.class_token))

            self._hooks.append(getattr(layer, watched).register_forward_pre_hook(count))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _counted(values: Tensor, valid: Tensor | None, class_token: bool) -> Tensor:
    """The tokens (n, channels) of values (batch, tokens, channels) that an answer depends on.

    The class token, where there is one, always counts: the heads read its state even where its key is masked.
    """
    if valid is None or values.shape[1] != valid.shape[1] or bool(valid.all()):
        return values.flatten(0, 1)
    chosen = valid.clone()
    chosen[:, 0] |= class_token
    return values[chosen]
