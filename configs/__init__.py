"""Training recipes, one file per benchmark."""
