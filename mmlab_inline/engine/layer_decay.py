"""Learning rates that fall from block to block towards the image."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..backbones.base import DenseBackbone
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with layer-wise decay of the learning rate in the backbone.

    ``paramwise_cfg=dict(layer_decay=0.8)`` multiplies the rate of the last block by 0.8, of the one
    before it by 0.64, and so on down to the stem (ELECTRA, arXiv 2003.10555; BEiT,
    arXiv 2106.08254). Output norms, necks and heads, which no classifier brings, keep the full
    rate. Whatever else stands in ``paramwise_cfg`` holds as ever.

    Raises:
        ValueError: ``layer_decay`` is not in (0, 1], or the backbone is none of this package.
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return  # a part of the model, whose groups the whole one goes through below
        decay = self.paramwise_cfg.get('layer_decay')
        if not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay={decay} must lie in (0, 1]')
        backbone = getattr(module, 'backbone', None)
        if not isinstance(backbone, DenseBackbone):
            raise ValueError(
                f'layer_decay needs InLinePVT or InLineSwin as backbone, not '
                f'{type(backbone).__name__}'
            )
        layers = backbone.layers_in_order()
        factors = {
            id(parameter): decay ** (len(layers) - index)
            for index, layer in enumerate(layers)
            for part in layer
            for parameter in (part.parameters() if isinstance(part, nn.Module) else [part])
        }
        for group in params:
            (parameter,) = group['params']
            group['lr'] = group.get('lr', self.base_lr) * factors.get(id(parameter), 1)
