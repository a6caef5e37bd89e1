"""TensorFlow models as files: getting, converting, describing and writing them. No TensorFlow needed.

A model is input from outside. Reading one decides nothing about trust; it must only never run code or fail unclearly.
"""
