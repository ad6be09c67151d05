"""The committed results of `adamas bench`, and the tables of the READMEs that are made of them."""
