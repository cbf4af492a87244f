"""Where the authors' ImageNet checkpoints are (README of LeapLabTHU/InLine)."""

_PAGE = 'https://cloud.tsinghua.edu.cn/f/{}/?dl=1'

RELEASED_WEIGHTS = {
    name: _PAGE.format(share)
    for name, share in {
        'inline_pvt_tiny': '90ac52b1555b401eb5e6',
        'inline_pvt_small': '1ab953b2479d433080a3',
        'inline_pvt_medium': 'a72aec31e6084bc0a280',
        'inline_pvt_large': 'efd91318ba964f01b288',
        'inline_swin_tiny': '32810869fcc34410966b',
        'inline_swin_small': 'e9657fd247c04c7cb1a1',
        'inline_swin_base': 'bf23564bb64c420aafe1',
    }.items()
}
