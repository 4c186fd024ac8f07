"""Losses under the names, arguments and calls of other libraries, each in a module of its name."""
