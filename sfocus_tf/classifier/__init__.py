"""Inspects a Keras classifier: its graph, its feature maps and attention layers, and whether it can be wrapped."""
