"""The engine ``tensorflow``: SavedModels on TensorFlow itself, as TensorFlow Serving runs them."""
