"""A program in two parts: what depends on the words alone runs once for each text, the rest for each picture."""
