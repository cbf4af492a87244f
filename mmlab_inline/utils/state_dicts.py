"""What a state dict and a model do not agree on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .safe_load import CheckpointError


@dataclass(frozen=True)
class Difference:
    """Names that keep a state dict from being exactly that of a model; false if there are none.

    Attributes:
        missing: In the model only.
        unknown: In the state dict only.
        reshaped: In both, with another shape, as ``name (given) instead of (own)``.
    """

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.reshaped)

    def __str__(self) -> str:
        """Counts, each with an example."""
        return '; '.join(
            f'{len(names)} {what} (such as {names[0]})'
            for names, what in (
                (self.missing, 'parameters missing'),
                (self.unknown, 'unknown'),
                (self.reshaped, 'of another shape'),
            )
            if names
        )


def compare_state_dict(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    optional: Callable[[str], object] = lambda name: False,
) -> Difference:
    """Compare names and shapes.

    Args:
        own: Tensors of the model, which may be on the meta device.
        given: Tensors to load.
        optional: Says of a name whether either side may lack it.
    """
    return Difference(
        missing=tuple(name for name in own if name not in given and not optional(name)),
        unknown=tuple(name for name in given if name not in own and not optional(name)),
        reshaped=tuple(
            f'{name} {tuple(given[name].shape)} instead of {tuple(own[name].shape)}'
            for name in own
            if name in given and given[name].shape != own[name].shape
        ),
    )


def of_another_model(source: str, difference: Difference, remedy: str = '') -> CheckpointError:
    """The error of weights that do not fit, wherever they are loaded.

    Args:
        source: Where the weights come from.
        difference: What does not fit.
        remedy: What to do.
    """
    return CheckpointError(f'{source} is of another model: {difference}{remedy and ". "}{remedy}')
