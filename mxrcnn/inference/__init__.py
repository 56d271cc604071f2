"""Inference: images in, Detections out, on MXNet or onnxruntime; int8 and bfloat16 copies of runs.

predictor is the interface, detector a Predictor on a run folder. engine describes what
mxnet_engine and onnx_engine implement. `sources` finds images, `stream` runs a predictor on them,
`outputs` writes the detections. Scores of detections are in `mxrcnn.evaluation`.
"""
