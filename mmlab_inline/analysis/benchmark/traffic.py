"""Bytes that a pass keeps for the backward pass, and bytes that its operations read and write."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class KeptBytes:
    """Bytes that autograd keeps for the backward pass: each storage once, parameters left out.

    Attributes:
        total: Bytes counted so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        tensors = (*model.parameters(), *model.buffers())
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in tensors}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is kept by the forward passes inside."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor.detach()  # an output kept as it is would keep itself alive


class MovedBytes(TorchDispatchMode):
    """Bytes that operations read and write, as if every one of them went through memory.

    Views are free, and so are dimensions that are only expanded. What one operation does inside
    itself, and whether the cache spares the way to memory, is not seen.

    Attributes:
        total: Bytes counted so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        read, written = (
            [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
            for tree in ((args, kwargs), out)
        )
        storages = {tensor.untyped_storage().data_ptr() for tensor in read}
        aliases = any(tensor.untyped_storage().data_ptr() in storages for tensor in written)
        is_view = aliases and not func._schema.is_mutable
        if not is_view and 'empty' not in func.overloadpacket.__name__:
            self.total += sum(map(_touched_bytes, [*read, *written]))
        return out


def _touched_bytes(tensor: Tensor) -> int:
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(side for side, stride in sides if stride)
