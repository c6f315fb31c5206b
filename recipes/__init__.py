"""The recipes, installed as `rft._recipes` so that the command finds them by name."""
