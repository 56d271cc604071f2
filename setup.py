"""Install mxrcnn: `pip install .[cpu]` on CPUs, `pip install .[cu112]` on NVIDIA GPUs."""

from pathlib import Path

from setuptools import find_packages, setup

CUDA_LIBRARIES = [
    "nvidia-cuda-runtime-cu11",
    "nvidia-cublas-cu11",
    "nvidia-cufft-cu11",
    "nvidia-cusolver-cu11",
    "nvidia-curand-cu11",
    "nvidia-cuda-nvrtc-cu11",
    "nvidia-nvtx-cu11",
    "nvidia-nccl-cu11",
    "nvidia-cudnn-cu11>=8.1,<9",
]

# no upper bounds: the newest releases still support the NumPy 1 that mxnet requires
ONNX = ["onnx>=1.16", "onnxruntime>=1.18"]

GLUONCV = ["gluoncv==0.10.5.post0"]

CONVERT = ["safetensors>=0.4", "h5py>=3.8"]

# mxnet requires NumPy < 2, which has no wheels for Python 3.13. With symnet.machine it also runs
# with NumPy 2. So on 3.13 pip installs its other dependencies here, and mxnet itself is installed
# afterwards: `pip install --no-deps mxnet==1.9.1`
OLD, NEW = "python_version < '3.13'", "python_version >= '3.13'"
MXNET_NEEDS = [f"requests>=2.20,<3; {NEW}", f"graphviz>=0.8.1,<0.9; {NEW}"]

setup(
    name="mxrcnn",
    version="0.1.0",
    description="Train, evaluate and deploy object detectors with Apache MXNet's symbolic API",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9,<3.14",
    packages=find_packages(include=["mxrcnn", "mxrcnn.*", "symnet", "symnet.*"]),
    entry_points={"console_scripts": ["mxrcnn = mxrcnn.cli:main"]},
    package_data={"mxrcnn.weights": ["zoo.json"]},
    install_requires=[
        f"numpy>=1.22,<2; {OLD}",
        f"numpy>=2.1,<3; {NEW}",
        "Pillow>=9.2",
        "matplotlib>=3.5",
        "pycocotools>=2.0.6",
        "defusedxml>=0.7",
        "tqdm>=4.60",
    ],
    extras_require={
        "cpu": [f"mxnet==1.9.1; {OLD}", *MXNET_NEEDS],
        "cu112": [f"mxnet-cu112==1.9.1; {OLD}", *MXNET_NEEDS, *CUDA_LIBRARIES],
        # PyAV's wheels contain FFmpeg with codecs under the GPL
        "video": ["av>=12"],
        "tensorboard": ["tensorboardX>=2.6"],
        "convert": CONVERT,
        "gluoncv": GLUONCV,
        "onnx": ONNX,
        "dev": [
            "pytest>=7.4",
            "hypothesis>=6.80",
            "ruff==0.17.5",
            *GLUONCV,
            "tensorboardX>=2.6",
            *CONVERT,
            *ONNX,
        ],
    },
)
