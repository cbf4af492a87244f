"""Stopping, or skipping the step, where the loss is no number."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..registry import HOOKS
from ..utils import UserError, one_of
from .checkpoint_hook import save_interrupted
from .model import unwrapped_model
from .termination_hook import any_process


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Keeps a NaN or infinite loss from reaching the weights.

    The loss is looked at before the backward pass, while the weights are still those of the
    iteration before. Where it is not finite, in any of the processes, the run stops with one line
    that names the iteration, the loss terms and the images, and the state before the iteration is
    saved as ``interrupted.pth``; or the step is skipped with a warning that says the same.

    Costs no wait for the GPU beside that of the logger: the loss terms come to the CPU all at once
    here, once per iteration, instead of one by one after the step.

    Args:
        on_non_finite: ``'stop'`` or ``'skip'``.
    """

    def __init__(self, on_non_finite: str = 'stop') -> None:
        self.on_non_finite = one_of('on_non_finite', on_non_finite, ('stop', 'skip'))

    def before_train(self, runner: Runner) -> None:
        """Get between the model and its optimizer."""
        model = unwrapped_model(runner)
        wrapper = runner.optim_wrapper
        model.parse_losses = partial(self._parse_losses, model.parse_losses)
        wrapper.update_params = partial(self._update_params, runner, wrapper, wrapper.update_params)
        # The forward pass puts its values into the running statistics: they need a way back.
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._statistics]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Keep what is needed where the loss will not be finite."""
        self._samples = data_batch.get('data_samples') or []
        for before, buffer in zip(self._before, self._statistics, strict=True):
            before.copy_(buffer)

    def _parse_losses(self, parse: Callable, losses: dict) -> tuple[Tensor, dict[str, float]]:
        """The model's own method, with loss terms as numbers."""
        loss, terms = parse(losses)
        is_finite = torch.isfinite(loss.detach()).double()
        all_reduce(is_finite, 'min')
        values = [torch.as_tensor(value).detach().double() for value in terms.values()]
        *values, self._is_finite = torch.stack([*values, is_finite]).tolist()
        self._terms = OrderedDict(zip(terms, values, strict=True))
        return loss, self._terms

    def _update_params(
        self, runner: Runner, wrapper: OptimWrapper, update: Callable, loss: Tensor, *args: object
    ) -> None:
        """The optimizer's own method, for finite losses only."""
        if self._is_finite:
            update(loss, *args)
            return
        for before, buffer in zip(self._before, self._statistics, strict=True):
            buffer.copy_(before)
        message = self._describe(runner.iter + 1)
        if self.on_non_finite == 'stop':
            self._stop(runner, message)
        runner.logger.warning(f'{message}; the step is skipped')
        wrapper._inner_count += 1
        # In an accumulation the other batches still count.
        parameters = (p for group in wrapper.param_groups for p in group['params'])
        if wrapper.should_update() and any(p.grad is not None for p in parameters):
            wrapper.step()
            wrapper.zero_grad()

    def _describe(self, iteration: int) -> str:
        where = f'iteration {iteration}: the loss is not finite'
        if math.isfinite(self._terms['loss']):
            return f'{where} in another process'
        terms = ', '.join(f'{name} {value:.4g}' for name, value in self._terms.items())
        images = ', '.join(
            str(sample.get('img_path') or sample.get('img_id')) for sample in self._samples
        )
        return f'{where} ({terms}) on {images or "this batch"}'

    def _stop(self, runner: Runner, message: str) -> None:
        weights = runner.model.parameters()
        # With FSDP each process sees its own share only, and they all have to save, or none.
        if any_process(not all(bool(torch.isfinite(weight).all()) for weight in weights)):
            state = 'the weights were not finite before it either, so nothing is saved'
        else:
            state = f'the state before it is in {save_interrupted(runner, runner.iter)}'
        barrier()
        raise UserError(
            f'{message}; {state}; look at these images and their labels, lower the learning rate, '
            "or set default_hooks.non_finite_loss.on_non_finite='skip'"
        )
