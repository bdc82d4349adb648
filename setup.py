"""Which folders become packages: `zoo_slim` with all below it, and the two side folders under its name."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["zoo_slim", "zoo_slim.*"]), "zoo_slim.architectures", "zoo_slim.schemas"])
