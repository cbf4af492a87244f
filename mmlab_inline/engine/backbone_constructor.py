"""Weight decay as the backbone declares it, and learning rates that fall towards the image."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from .. import backbones
from ..backbones.base import DenseBackbone
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


# The second name is the one that it had when layer_decay was all that it did.
@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name=['BackboneConstructor', 'LayerDecayConstructor'])
class BackboneConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with two more settings for the backbones of this package.

    ``paramwise_cfg=dict(declared_no_decay=True)`` decays neither position embeddings nor what
    attentions keep in tables and scales, whatever they are: each says so itself
    (:meth:`.DenseBackbone.parameters_without_decay`).

    ``paramwise_cfg=dict(layer_decay=0.8)`` multiplies the rate of the last block by 0.8, of the one
    before it by 0.64, and so on down to the stem (ELECTRA, arXiv 2003.10555; BEiT,
    arXiv 2106.08254). Output norms, necks and heads, which no classifier brings, keep the full
    rate.

    Whatever else stands in ``paramwise_cfg`` holds as ever.

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
        # A part of the model has a prefix; the whole one comes last, with everybody's groups.
        asked = [key for key in ('declared_no_decay', 'layer_decay') if key in self.paramwise_cfg]
        if prefix or not asked:
            return
        backbone = getattr(module, 'backbone', None)
        if not isinstance(backbone, DenseBackbone):
            raise ValueError(
                f'{asked[0]} needs {" or ".join(backbones.__all__)} as backbone, not '
                f'{type(backbone).__name__}'
            )
        exempt = set()
        if self.paramwise_cfg.get('declared_no_decay'):
            names = backbone.parameters_without_decay()
            exempt = {id(backbone.get_parameter(name)) for name in names}
        factors = self._factors(backbone) if 'layer_decay' in asked else {}
        for group in params:
            (parameter,) = group['params']
            if id(parameter) in exempt:
                group['weight_decay'] = 0.0
            if id(parameter) in factors:
                group['lr'] = group.get('lr', self.base_lr) * factors[id(parameter)]

    def _factors(self, backbone: DenseBackbone) -> dict[int, float]:
        """What the rates of the backbone's parameters are multiplied by."""
        decay = self.paramwise_cfg['layer_decay']
        if not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay={decay} must lie in (0, 1]')
        layers = backbone.layers_in_order()
        return {
            id(parameter): decay ** (len(layers) - index)
            for index, layer in enumerate(layers)
            for part in layer
            for parameter in (part.parameters() if isinstance(part, nn.Module) else [part])
        }


LayerDecayConstructor = BackboneConstructor
