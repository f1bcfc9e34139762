"""The named recipes, complete YAML files."""
