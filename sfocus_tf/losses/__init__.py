"""The attention losses, when each is applied, and the objectives made of them."""

from sfocus_tf.losses.attention_losses import (
    SEPARATIONS,
    consistency_loss,
    difference_loss,
    margin_loss,
    rival_loss,
    separation_loss,
)
from sfocus_tf.losses.recipes import RECIPES, Recipe, recipe
from sfocus_tf.losses.schedule import Term
from sfocus_tf.losses.terms import SHARES, TERMS, Settings

__all__ = [
    "RECIPES",
    "SEPARATIONS",
    "SHARES",
    "TERMS",
    "Recipe",
    "Settings",
    "Term",
    "consistency_loss",
    "difference_loss",
    "margin_loss",
    "recipe",
    "rival_loss",
    "separation_loss",
]
