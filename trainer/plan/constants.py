"""What a plan is computed from: one table of figures, each with where it comes from.

This project has measured nothing on a GPU. GPUs have their vendor's data sheet, and images/s at which others trained
ResNet-50 on them; `trainer bench step --save` and `trainer bench loader --save` put your own figures in their place.
Retrieved 2026-11-21. The sources, by the names that the table calls them:

- NVIDIA: github.com/NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md (container
  21.03): ResNet-50 v1.5, images/s of one GPU, mixed precision and fp32; and the latency of a forward pass of one image.
- Lambda: github.com/lambdal/deeplearning-benchmark, pytorch/pytorch-train-throughput-fp16.csv: the same network and
  software on many GPUs. Its figures are lower, since older settings were used throughout, so only ratios are taken.
- timm: github.com/huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv: a
  training step as ours is (PyTorch, mixed precision, channels last, data on the device).
- NCCL: github.com/NVIDIA/nccl-tests/issues/212, where its maintainers put the overhead of the protocol at 20 %.
- BENCHMARKS: BENCHMARKS.md of this repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["half", "single"]
"""Of arithmetic: bf16 and fp16 with sums in fp32, or fp32 throughout (no TF32, as in the trainer)."""


@dataclass(frozen=True)
class Device:
    """What one GPU can do, or one core of a CPU."""

    title: str
    source: str
    half: float | None
    """FLOP/s in bf16 or fp16, dense, sums in fp32, of the data sheet; None: it has none worth using."""
    single: float
    """FLOP/s in fp32, of the data sheet."""
    bandwidth: float
    """Bytes/s of its memory, of the data sheet."""
    link: float | None
    """Bytes/s, one way, to another GPU of the node, of the data sheet (NVLink, or PCIe); None: not known."""
    resnet50: dict[Kind, float]
    """Images/s that it trained ResNet-50 v1.5 at, 224 pixels and large batches."""
    like: str | None = None
    """Whose share of the data sheet's figures it reaches, where nobody published `resnet50` of it."""
    bf16: bool = True

    @property
    def is_cpu(self) -> bool:
        return self.link is None


NVIDIA_A100: Final = 2470.0
TIMM_3090: Final = 1218.0

DEVICES: Final[dict[str, Device]] = {
    "v100": Device(
        title="V100 SXM2, 32 GB",
        source="images/s published by NVIDIA (DGX-1)",
        half=125e12,
        single=15.7e12,
        bandwidth=900e9,
        link=150e9,
        resnet50={"half": 1156.0, "single": 356.0},
        bf16=False,
    ),
    "a100": Device(
        title="A100 SXM4, 80 GB",
        source="images/s published by NVIDIA (DGX A100)",
        half=312e12,
        single=19.5e12,
        bandwidth=2039e9,
        link=300e9,
        resnet50={"half": NVIDIA_A100},
    ),
    "h100": Device(
        title="H100 SXM5, 80 GB",
        source="NVIDIA's images/s of an A100, times Lambda's ratio of the two (2,791 to 1,582)",
        half=989.4e12,
        single=66.9e12,
        bandwidth=3350e9,
        link=450e9,
        resnet50={"half": NVIDIA_A100 * 2791 / 1582},
    ),
    "h200": Device(
        title="H200 SXM, 141 GB",
        source="data sheet, and the share of it that an H100 reaches",
        half=989.4e12,
        single=66.9e12,
        bandwidth=4800e9,
        link=450e9,
        resnet50={},
        like="h100",
    ),
    "rtx3090": Device(
        title="GeForce RTX 3090",
        source="images/s published by timm",
        half=71e12,
        single=35.6e12,
        bandwidth=936e9,
        link=32e9,
        resnet50={"half": TIMM_3090},
    ),
    "rtx4090": Device(
        title="GeForce RTX 4090",
        source="timm's images/s of an RTX 3090, times Lambda's ratio of the two (1,301 to 905)",
        half=165.2e12,
        single=82.6e12,
        bandwidth=1008e9,
        link=32e9,
        resnet50={"half": TIMM_3090 * 1301 / 905},
    ),
    "rtx6000ada": Device(
        title="RTX 6000 Ada",
        source="timm's images/s of an RTX 3090, times Lambda's ratio of the two (1,146 to 905)",
        half=364.25e12,
        single=91.1e12,
        bandwidth=960e9,
        link=32e9,
        resnet50={"half": TIMM_3090 * 1146 / 905},
    ),
    "l40s": Device(
        title="L40S",
        source="data sheet, and the share of it that an RTX 6000 Ada, the same chip, reaches",
        half=362.05e12,
        single=91.6e12,
        bandwidth=864e9,
        link=32e9,
        resnet50={},
        like="rtx6000ada",
    ),
    "cpu": Device(
        title="a core of an Intel Xeon at 2.5 GHz, AVX-512",
        source="measured by us, CPU time of one core of a busy machine, 2026-11-21",
        # Best of seven: FLOP/s of a product of matrices of 2,048, and bytes/s of a copy.
        half=None,
        single=90e9,
        bandwidth=11e9,
        link=None,
        # The middle of four networks, from ResNet-20 at 32 pixels to ResNet-50 at 224, each as if it were this one.
        resnet50={"single": 2.7},
        bf16=False,
    ),
}
"""By the name that `--gpu` takes."""

SINGLE_LIKE: Final = "v100"
"""Whose share of its data sheet is taken for fp32 on GPUs: the only one with a published figure without TF32."""

FORWARD_AND_BACKWARD: Final = 3
"""Forward passes that a training step costs: the backward pass has two convolutions for every one of the forward pass,
towards the weights and towards the input."""

PASSES: Final = 19
"""Times that each value a convolution puts out goes through the memory in a training step. Forward 7: written, read for
batch norm's mean and variance, read and written by its scaling, read and written by the ReLU, read by the next layer.
Backward 12: by the ReLU 3 (two read, one written), by batch norm 5 (two for its sums, three for the gradient), by the
next convolution 4 (read twice as its gradient, once as its input; one written)."""

FORWARD_LAUNCH_SECONDS: Final[dict[Kind, float]] = {"half": 12.78e-3 * 11.21 / 17.19, "single": 10.37e-3 * 9.33 / 13.15}
"""A forward pass of ResNet-50 on one image: the time that the host of a DGX A100 (2020) takes to launch it. NVIDIA has
ResNet-50 on the older host of a DGX-1, and EfficientNet-B0 on both (the same repository, efficientnet/README.md).
Backward is counted as two (see `FORWARD_AND_BACKWARD`). How much faster newer hosts are is not known here."""

LINK_EFFICIENCY: Final = 0.8
"""What NCCL reaches of a link's bytes/s."""

BUCKET_BYTES: Final = 25 * 2**20
"""DistributedDataParallel's bucket of gradients: the last one is reduced when the backward pass is over."""

BACKWARD_SHARE: Final = 2 / 3
"""Of a training step is backward, during which the other buckets are reduced."""

OPTIMIZER_BYTES: Final = 20
"""A parameter, that SGD with momentum moves through the memory: weight, gradient and momentum read, two written, fp32.
"""


@dataclass(frozen=True)
class DecodingCost:
    """Seconds of a core for one crop of a JPEG: `image + pixel_out * pixels made + pixel_in * pixels covered`."""

    image: float = 60e-6
    pixel_out: float = 2.0e-9
    pixel_in: float = 5.2e-9

    def seconds(self, made: float, covered: float) -> float:
        return self.image + self.pixel_out * made + self.pixel_in * covered


DECODING: Final = DecodingCost()
"""Of this loader, fitted on 2026-11-21 to ten kinds of crops of 64 to 224 pixels of 800 photographs at quality 90, by
CPU time of one thread on a busy core of the machine in BENCHMARKS: all within 10 % but one of 30 %. The paper's crops
come to 2,390 images/s a core; BENCHMARKS has 2,330."""

RAW_SECONDS: Final = 1.1e-3 / 128
"""Of a core for one crop of 32 pixels from stored pixels (BENCHMARKS)."""

EXACT_FACTOR: Final = 1.5
"""Times the cost of training's crops, for those of a validation (BENCHMARKS)."""

WITHOUT_READ_AHEAD: Final = 19.3
"""Bytes read over bytes needed in random order with data.read_ahead=0, from a disk (BENCHMARKS)."""

IMAGE_BYTES: Final = 58_000
"""A photograph converted at quality 90 (BENCHMARKS), where a recipe's data are not there to look at."""

IMAGE_SIZE: Final = (500, 375)
"""Width and height of the median photograph (BENCHMARKS)."""

VALIDATION_IMAGES: Final = 50_000
"""Of ILSVRC2012; where a recipe's data are not there."""

CIFAR_IMAGES: Final = (50_000, 10_000)
"""To train on and to test on; where the data of a recipe with padded crops are not there."""

PROCESS_BYTES: Final = 4e9
"""Memory that a process takes from the page cache. An assumption: of it the loader has 0.1 GB (BENCHMARKS)."""

CORES_PER_GPU: Final = 8
MEMORY_BYTES: Final = 256e9
NETWORK_BYTES: Final = 100e9 / 8
"""What a node has where nobody says: assumptions, and the plan says which it made. Bytes, and bytes/s."""
