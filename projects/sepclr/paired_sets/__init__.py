"""A background set and a target set: added patterns, attributes, volumes, and their readers."""
