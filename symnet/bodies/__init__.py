"""Bodies: networks that turn an image into feature maps."""
