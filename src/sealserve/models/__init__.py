"""TensorFlow models as files: writing graphs, reading SavedModels, and the models known by name. No TensorFlow needed.

A model is input from outside. Reading one decides nothing about trust; it must only never run code or fail unclearly.
"""
