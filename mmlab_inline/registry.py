"""Where mmdet and mmseg find what this package adds.

``type='mmlab_inline.InLinePVT'`` resolves in any mm config without an import, because mmengine
imports this module for the unknown scope. A bare ``type='InLinePVT'`` resolves once
``mmlab_inline`` has been imported, by ``custom_imports=dict(imports=['mmlab_inline'])``.
"""

from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model', scope='mmlab_inline', parent=ROOT_MODELS, locations=['mmlab_inline.backbones']
)


def register_backbone(cls: type) -> type:
    """Class decorator: register under the prefixed and under the bare name."""
    MODELS.register_module(module=cls)
    ROOT_MODELS.register_module(module=cls)
    return cls
