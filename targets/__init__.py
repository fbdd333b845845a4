"""Boards and links as data, and the models that predict what a layer costs on them."""
