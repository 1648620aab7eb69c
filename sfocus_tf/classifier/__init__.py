"""Looking into a Keras classifier: its graph, its attention layers, and whether it can be wrapped."""
