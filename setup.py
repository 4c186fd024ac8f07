"""Refuses a wheel: configs, data and results are read from the checkout, which a wheel lacks."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist

REASON = (
    "this repository is used from a checkout, where its configs and data are: "
    "pip install -e '.[all]' (the losses alone are packaging/contrastive-losses)"
)


class NoWheel(bdist_wheel):
    """What ``pip install .`` builds; an editable install does not run it."""

    def run(self) -> None:
        """Refuse."""
        raise SystemExit(f"error: {REASON}")


class NoSource(sdist):
    """What ``python -m build`` builds first."""

    def run(self) -> None:
        """Refuse."""
        raise SystemExit(f"error: {REASON}")


setup(cmdclass={"bdist_wheel": NoWheel, "sdist": NoSource})
