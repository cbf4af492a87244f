"""Weights, gradients and optimizer state shared out among processes (FSDP, also called ZeRO-3)."""

from contextlib import nullcontext
from functools import partial

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.dist import barrier, is_main_process
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from ..layers import Block
from ..registry import RUNNERS, STRATEGIES
from ..runs import confine_autocast
from ..runs.seeding import prefer_deterministic_algorithms
from ..utils import written_atomically
from .atomic_backend import told_how_to_go_on
from .model import errors_of_build


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """mmengine's FSDPStrategy for the backbones of this package, also where there is no GPU.

    - Each block of the backbone is a unit, so that the whole weights of one or two blocks exist at
      a time. Heads stay in the outermost unit, because mmdet and mmseg call their methods past
      ``forward``, where FSDP gathers weights.
    - Gradients are clipped by the norm over all processes; mmengine takes each process's own.
    - Checkpoints are whole by default, equal to those of one process, and written so that a kill
      leaves the one before.
    - ``randomness.deterministic`` only warns of what has no deterministic algorithm.

    Takes the arguments of mmengine's class.
    """

    def __init__(self, *, state_dict_cfg: str | dict = 'full', **settings: object) -> None:
        super().__init__(state_dict_cfg=state_dict_cfg, **settings)
        if not torch.cuda.is_available():
            # A copy "to the CPU" would be the gathered tensors themselves, which FSDP uses again.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False

    def build_optim_wrapper(
        self, optim_wrapper: OptimWrapper | dict, model: nn.Module | None = None
    ) -> OptimWrapper:
        """Clip gradient norms over all processes."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, 'clip_func', None) is nn.utils.clip_grad_norm_:
            wrapper.clip_func = partial(_clip_grad_norm, model)
        return wrapper

    def save_checkpoint(self, filename: str, **settings: object) -> None:
        """Save; a whole checkpoint is there in full or not at all.

        Raises:
            UserError: A whole checkpoint cannot be written; an older one is untouched.
        """
        if not self._is_full_state_dict():
            super().save_checkpoint(filename, **settings)
            return
        # All processes gather the weights, the first one writes them.
        place = written_atomically(filename) if is_main_process() else nullcontext(filename)
        with told_how_to_go_on(), place as part:
            super().save_checkpoint(str(part), **settings)
        barrier()

    def model_state_dict(self) -> dict[str, Tensor]:
        """Plain tensors: without the marks that FSDP leaves on them, which safe loading refuses."""
        return {name: value.detach() for name, value in super().model_state_dict().items()}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load this process's share; mmengine has the order of the arguments of torch 2.0."""
        optimizer = self.optim_wrapper.optimizer
        share = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(share)

    def _set_randomness(self, **randomness: object) -> None:
        super()._set_randomness(**randomness)
        if randomness.get('deterministic'):
            prefer_deterministic_algorithms()

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        self.model_wrapper = {
            'type': 'MMFullyShardedDataParallel',
            'auto_wrap_policy': ModuleWrapPolicy({Block}),
            **(self.model_wrapper or {}),
        }
        if not torch.cuda.is_available():
            self.model_wrapper['device_id'] = torch.device('cpu')
        return super()._wrap_model(model)


@RUNNERS.register_module()
class StrategyRunner(FlexibleRunner):
    """mmengine's FlexibleRunner for this package's hooks. Takes its arguments.

    The model is there from the start, and checkpoints hold the epoch and iteration that hooks
    name; mmengine's counts one more, also where a state is saved after an evaluation.
    """

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        with errors_of_build():
            self.model = self.strategy.build_model(self.model)
        confine_autocast(self.model)

    def save_checkpoint(self, *args: object, meta: dict | None = None, **settings: object) -> None:
        """Save; ``meta`` comes last."""
        self._meta = dict(meta or {})
        super().save_checkpoint(*args, meta=meta, **settings)

    def call_hook(self, fn_name: str, **settings: object) -> None:
        """Put the counts right before hooks see a checkpoint."""
        if fn_name == 'before_save_checkpoint':
            settings['checkpoint']['meta'].update(self._meta)
        super().call_hook(fn_name, **settings)


def _clip_grad_norm(
    model: FullyShardedDataParallel, parameters: list[Tensor], **settings: float
) -> Tensor:
    return model.clip_grad_norm_(**settings)
