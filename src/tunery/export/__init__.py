"""From a run to what other programs load, with proof that it is the same model.

``publish.export`` builds one of the ``kinds`` beside its place, lets the program that will use it (one of the
``consumers``) answer the run's probe rows in a process of its own, and compares (``parity``). Only what passes gets its
name.
"""
