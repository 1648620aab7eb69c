"""Packages of sfocus_tf, whose configs lie beside it in the repository; all else is in pyproject.toml."""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["sfocus_tf", "sfocus_tf.*"]), "sfocus_tf.configs"],
    package_dir={"sfocus_tf.configs": "configs"},
    package_data={"sfocus_tf": ["py.typed", "report/templates/*.html", "data/caltech256/*[a-zA-Z]"]},
)
