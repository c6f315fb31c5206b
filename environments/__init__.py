"""The catalogue of environments, imported as `rft.environments`."""

from rft.environments.single_turn import SingleTurn

__all__ = ["SingleTurn"]
