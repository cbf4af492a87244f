"""All but the list of packages is in setup.cfg, which has no word for this."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=['mmlab_inline*']), 'mmcv'],
    # What lies in mmcv_ops is installed into mmcv's folder: the module mmcv._ext. It has no
    # __init__.py, which would overwrite mmcv's.
    package_dir={'mmcv': 'mmcv_ops'},
)
