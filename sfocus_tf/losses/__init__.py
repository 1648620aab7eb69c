"""The attention losses, their schedule, and the objectives that combine them."""

from sfocus_tf.losses.attention_losses import consistency_loss, rival_loss, separation_loss
from sfocus_tf.losses.objective import OBJECTIVES, SEPARATIONS, Objective, named, objective
from sfocus_tf.losses.schedule import Term
from sfocus_tf.losses.terms import SHARES, TERMS, BatchTerms, batch_terms, image_terms, no_terms

__all__ = [
    "OBJECTIVES",
    "SEPARATIONS",
    "SHARES",
    "TERMS",
    "BatchTerms",
    "Objective",
    "Term",
    "batch_terms",
    "consistency_loss",
    "image_terms",
    "named",
    "no_terms",
    "objective",
    "rival_loss",
    "separation_loss",
]
