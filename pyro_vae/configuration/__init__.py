"""Configurations: options and YAML files, read and checked, and what they name, built."""
