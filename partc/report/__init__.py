"""Views of graphs and plans."""
