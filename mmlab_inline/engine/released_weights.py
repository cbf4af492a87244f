"""Where the ImageNet checkpoints of every config are.

InLine's are those of the README of LeapLabTHU/InLine; PVT's and Swin's are of whai362/PVT and
SwinTransformer/storage, for the softmax twins.
"""

_INLINE = 'https://cloud.tsinghua.edu.cn/f/{}/?dl=1'
_PVT = 'https://github.com/whai362/PVT/releases/download/v2/pvt_{}.pth'
_SWIN = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
    'swin_{}_patch4_window7_224.pth'
)

RELEASED_WEIGHTS = {
    **{
        name: _INLINE.format(share)
        for name, share in {
            'inline_pvt_tiny': '90ac52b1555b401eb5e6',
            'inline_pvt_small': '1ab953b2479d433080a3',
            'inline_pvt_medium': 'a72aec31e6084bc0a280',
            'inline_pvt_large': 'efd91318ba964f01b288',
            'inline_swin_tiny': '32810869fcc34410966b',
            'inline_swin_small': 'e9657fd247c04c7cb1a1',
            'inline_swin_base': 'bf23564bb64c420aafe1',
        }.items()
    },
    **{f'pvt_{arch}': _PVT.format(arch) for arch in ('tiny', 'small', 'medium', 'large')},
    **{f'swin_{arch}': _SWIN.format(arch) for arch in ('tiny', 'small', 'base')},
}
