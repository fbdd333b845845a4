"""From segments to compiled libraries, glue and a bundle."""
