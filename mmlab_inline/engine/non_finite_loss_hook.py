"""Stopping, or skipping the step, where the loss is no number."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..registry import HOOKS
from ..utils import UserError, one_of
from .checkpoint_hook import save_interrupted
from .model import unwrapped_model
from .termination_hook import TerminationHook, any_process


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Keeps a NaN or infinite loss from reaching the weights.

    The loss is looked at before the backward pass, while the weights are still those of the
    iteration before. Where it is not finite, in any of the processes, the run stops with one line
    that names the iteration, the loss terms and the images, and the state before the iteration is
    saved as ``interrupted.pth``; or the step is skipped with a warning that says the same.

    Costs no wait for the GPU beside that of the logger: the loss terms come to the CPU all at once
    here, once per iteration, instead of one by one after the step. With them come the signals of
    :class:`.TerminationHook`, so that several processes talk once per iteration.

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
        terminations = (hook for hook in runner.hooks if isinstance(hook, TerminationHook))
        self._termination = next(terminations, None)
        # The forward pass puts its values into the running statistics: they need a way back.
        # By dtype, as a copy of many tensors is one of a GPU's kernels then.
        statistics: dict[torch.dtype, list[Tensor]] = {}
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                for buffer in norm.buffers():
                    statistics.setdefault(buffer.dtype, []).append(buffer)
        self._statistics = list(statistics.values())
        self._before = [[buffer.clone() for buffer in group] for group in self._statistics]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        """Keep what is needed where the loss will not be finite."""
        self._samples = data_batch.get('data_samples') or []
        for before, group in zip(self._before, self._statistics, strict=True):
            torch._foreach_copy_(before, group)

    def _parse_losses(self, parse: Callable, losses: dict) -> tuple[Tensor, dict[str, float]]:
        """The model's own method, with loss terms as numbers."""
        loss, terms = parse(losses)
        is_finite = torch.isfinite(loss.detach()).double()
        asked = self._termination.asked if self._termination else 0
        # The least of the processes' answers: whether all are finite, and the largest signal.
        answers = torch.stack([is_finite, is_finite.new_full((), -asked)])
        all_reduce(answers, 'min')
        values = [torch.as_tensor(value).detach().double() for value in terms.values()]
        *values, self._is_finite, asked = torch.stack([*values, *answers]).tolist()
        if self._termination and get_world_size() > 1:
            self._termination.agreed = -int(asked)
        self._terms = OrderedDict(zip(terms, values, strict=True))
        return loss, self._terms

    def _update_params(
        self, runner: Runner, wrapper: OptimWrapper, update: Callable, loss: Tensor, *args: object
    ) -> None:
        """The optimizer's own method, for finite losses only."""
        if self._is_finite:
            update(loss, *args)
            return
        for before, group in zip(self._before, self._statistics, strict=True):
            torch._foreach_copy_(group, before)
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
