"""TensorFlow Serving's REST API and the Open Inference Protocol's, over HTTP and HTTPS, in front of the data plane."""
