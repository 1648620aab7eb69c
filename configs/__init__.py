"""Recipes, one file a benchmark."""
