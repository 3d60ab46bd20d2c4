"""The command line: options, strict YAML, and what the scripts share."""
