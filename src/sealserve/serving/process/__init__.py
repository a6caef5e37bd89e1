"""The process that stands in for ``tensorflow_model_server``: its flags and files, and what they are assembled to.

What each flag does here is in ``docs/serving.md``, and in :mod:`sealserve.serving.process.flags`.
"""
