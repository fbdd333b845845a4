"""From a model file or object to one canonical form, whatever framework it came from."""
