"""What files of a Keras model forget: where its random numbers are."""

from typing import Any

import keras

_PREFIX = "random_"


class RandomStateModel(keras.Model):
    """A model whose files keep the state of its random numbers (dropout's): a loaded one draws what would have come."""

    def save_own_variables(self, store: Any) -> None:
        """As every Keras layer's, with the state of the random numbers."""
        super().save_own_variables(store)
        for number, state in enumerate(self._random_states()):
            store[f"{_PREFIX}{number}"] = state

    def load_own_variables(self, store: Any) -> None:
        """The counterpart of `save_own_variables`."""
        own = [key for key in store.keys() if not key.startswith(_PREFIX)]  # noqa: SIM118 (not a dict)
        super().load_own_variables({key: store[key] for key in own})
        for number, state in enumerate(self._random_states()):
            state.assign(store[f"{_PREFIX}{number}"])

    def _random_states(self) -> list[keras.Variable]:
        """The variables of the seed generators inside, which Keras counts among no layer's weights."""
        others = [*self.weights, *(variable for metric in self.metrics for variable in metric.variables)]
        known = {id(variable) for variable in others}
        return [variable for variable in self.non_trainable_variables if id(variable) not in known]
