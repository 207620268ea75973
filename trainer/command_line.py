"""The command line: what `python -m trainer` takes, and what it says about it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer", description="Train and evaluate the ResNets of He et al. 2015."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_train,
        _add_evaluate,
        _add_recalibrate,
        _add_responses,
        _add_report,
        _add_preview,
        _add_publish,
        _add_sweep,
        _add_status,
        _add_plan,
        _add_stage,
        _add_job,
        _add_doctor,
        _add_bench,
    ):
        add(commands)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `key=value` may stand anywhere in it (argparse takes them only before the first option)."""
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if words[:1] == ["stage"] and "--" in words else len(words)
    args, rest = parser.parse_known_args(words[:end])
    if args.command == "stage":
        args.words = words[end + 1 :]
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a recipe, or go on with a run",
        description="Train as RECIPE says. Run it again to go on from the last checkpoint. On more than one device: "
        "accelerate launch -m trainer train RECIPE.",
    )
    train.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the folder of a run to go on with")
    train.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the recipe's, e.g. optimizer.lr=0.05"
    )


def _add_recalibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    recalibrate = commands.add_parser(
        "recalibrate",
        help="a checkpoint with batch norm's statistics over training images",
        description="Write a new checkpoint whose batch norm has the plain averages of means and variances over "
        "training images, cropped and coloured as in training, in place of its moving averages. CHECKPOINT stays.",
    )
    recalibrate.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run folder, a checkpoint's folder or its state.pt"
    )
    recalibrate.add_argument("--data", required=True, metavar="TRAIN.beton", help="training data")
    recalibrate.add_argument("--images", type=int, metavar="N", help="how many of them (default: the recipe's)")
    recalibrate.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the new one (default: recalibrated-NAME beside CHECKPOINT)"
    )


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="what runs have reached: a page with curves and the paper's errors",
        description="Print a summary of each RUN beside the paper's errors; write a page of all of them, index.html, "
        "and its figures as PNGs.",
    )
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, at most eight")
    report.add_argument("--out", type=Path, metavar="DIR", help="where to (default, of one run: RUN/report)")


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="error of checkpoints on a data set, by the paper's protocols",
        description="Top-1 and top-5 error, every image read, decoded and counted once. The scores of several "
        "checkpoints are averaged. Alone, or under accelerate launch on any number of devices.",
    )
    evaluate.add_argument(
        "checkpoints", metavar="CHECKPOINT", nargs="+", help="a run folder, a checkpoint's folder or its state.pt"
    )
    evaluate.add_argument("--data", required=True, metavar="VAL.beton", help="what to evaluate on")
    evaluate.add_argument(
        "--protocol",
        default="center",
        metavar="NAME,...",
        help="center, ten-crop, multi-scale (ten crops at every scale), or all: these three, and multi-scale in the "
        "fully convolutional form (default: %(default)s)",
    )
    evaluate.add_argument(
        "--size",
        metavar="PX,...",
        help="side of the crops, each evaluated by itself, e.g. 224,256 (default: that of the recipe's validation)",
    )
    evaluate.add_argument(
        "--resize",
        type=int,
        metavar="PX",
        help="shorter side for center and ten-crop (default: in proportion to the crops as in the recipe's validation)",
    )
    evaluate.add_argument(
        "--scales",
        metavar="PX,...",
        help="shorter sides for multi-scale (default: 224,256,384,480,640, in proportion to the network's crops)",
    )
    evaluate.add_argument(
        "--pool",
        metavar="dense|global",
        help="multi-scale in the fully convolutional form: average the scores at every place of the image, or the "
        "features before the classifier",
    )
    evaluate.add_argument(
        "--score", default="softmax", metavar="softmax|logits", help="what is averaged (default: %(default)s)"
    )
    evaluate.add_argument(
        "--flip", metavar="true|false", help="average with the mirror image (default: in all protocols but center)"
    )
    evaluate.add_argument(
        "--ema", default="false", metavar="true|false", help="the moving average of the weights (default: %(default)s)"
    )
    evaluate.add_argument(
        "--batch", type=int, default=256, metavar="N", help="crops in one forward pass (default: %(default)s)"
    )
    evaluate.add_argument("--predictions", type=Path, metavar="OUT.npz", help="write the scores of every image")


def _add_publish(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    publish = commands.add_parser(
        "publish",
        help="a checkpoint in the formats of detectors and others",
        description="Write CHECKPOINT into the new folder OUT_DIR, in every format that can hold its network, with a "
        "model card, golden outputs and checksums; then load each with its consumer, where that is installed, and "
        "compare every stage. Or only compare: --verify OUT_DIR.",
    )
    publish.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="a run folder, a checkpoint's folder or its state.pt"
    )
    publish.add_argument("out", metavar="OUT_DIR", nargs="?", type=Path, help="the folder to make")
    publish.add_argument(
        "--formats",
        default="all",
        metavar="NAME,...",
        help="native, torchvision, timm, transformers, detectron2, detectron2-msra, mmdet, onnx (default: %(default)s)",
    )
    publish.add_argument("--name", help="begins the files' names (default: the network's)")
    publish.add_argument(
        "--ema", default="false", metavar="true|false", help="the moving average of the weights (default: %(default)s)"
    )
    publish.add_argument(
        "--labels", metavar="FILE", type=Path, help="the classes' names, one a line (default: the training data's)"
    )
    publish.add_argument(
        "--license", default="apache-2.0", metavar="ID", help="of the weights, on the card (default: %(default)s)"
    )
    publish.add_argument(
        "--allow-v1-snippet",
        action="store_true",
        help="write a network that strides in the 1x1 convolution for torchvision and timm, too, whose own do not, "
        "with a file of Python that swaps the strides",
    )
    publish.add_argument("--verify", metavar="OUT_DIR", type=Path, help="check what was published, write nothing")


def _add_preview(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    preview = commands.add_parser(
        "preview",
        help="a picture of what the network sees",
        description="Draw the first training images of RECIPE as its network sees them in five epochs, with what was "
        "drawn for each, and a validation image with its centre crop and ten crops.",
    )
    preview.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the folder of a run")
    preview.add_argument("overrides", metavar="key=value", nargs="*", help="values that replace the recipe's")
    preview.add_argument("--out", required=True, metavar="SHEET.png", type=Path, help="the picture to write")


def _add_responses(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    responses = commands.add_parser(
        "responses",
        help="how strongly a checkpoint's layers respond",
        description="Standard deviation of the output of each 3x3 layer, after batch norm and before the nonlinearity, "
        "over the centre crops of a data set (Figure 7 of the paper).",
    )
    responses.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run folder, a checkpoint's folder or its state.pt"
    )
    responses.add_argument("--data", required=True, metavar="FILE.beton", help="the images to respond to")
    responses.add_argument(
        "--images", type=int, metavar="N", help="so many of them, evenly spread over the file (default: all)"
    )
    responses.add_argument(
        "--ema", default="false", metavar="true|false", help="the moving average of the weights (default: %(default)s)"
    )
    responses.add_argument(
        "--out", metavar="FILE.json", type=Path, help="where to write (default: responses.json in the run folder)"
    )


def _add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="train a list of recipes, one after another",
        description="Train what is not done of the runs that FILE.yaml lists (see recipes/sweeps), each in a process "
        "of its own, and print a table of all. All recipes and data are checked before the first run starts. A run "
        "that fails does not end the sweep; one that is asked to stop does, and the same command goes on.",
    )
    sweep.add_argument("file", metavar="FILE.yaml", type=Path, help="runs: a list of recipes")
    sweep.add_argument("overrides", metavar="key=value", nargs="*", help="values that replace those of all recipes")
    kind = sweep.add_mutually_exclusive_group()
    kind.add_argument("--print", action="store_true", dest="lines", help="only print the commands that start the runs")
    kind.add_argument("--table", action="store_true", help="only print the table, as the runs are now")
    sweep.add_argument("--out", metavar="TABLE.md", type=Path, help="write the table, too, after every run")


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser(
        "status",
        help="how far runs are, and what became of them",
        description="A table of runs: state, progress, speed, error, and why those that failed did. Reads files alone, "
        "so it may be asked anywhere that the run folders can be seen.",
    )
    status.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        help="run folders, or folders of run folders (default: runs)",
    )
    how = status.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="redraw every two seconds, until Ctrl-C")
    how.add_argument("--json", action="store_true", help="a list of objects, for scripts")


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser("bench", help="how fast it is, beside others", description="Measure, side by side.")
    kinds = bench.add_subparsers(dest="kind", required=True, metavar="WHAT")
    loader = kinds.add_parser(
        "loader",
        help="images/s out of a beton",
        description="Measure this project's loader and its peers on the same images and crops, interleaved in one run. "
        "The rest of the machine should be idle.",
    )
    loader.add_argument("beton", metavar="FILE.beton", type=Path, help="images stored as JPEG")
    loader.add_argument(
        "--crop", default="scale", metavar="scale|rrc|center", help="which crops to make (default: %(default)s)"
    )
    loader.add_argument(
        "--workers", default="1,2", metavar="N,...", help="decoding threads or processes (default: %(default)s)"
    )
    loader.add_argument("--batch", type=int, default=256, metavar="N", help="images a batch (default: %(default)s)")
    loader.add_argument("--size", type=int, default=224, metavar="PX", help="side of the crops (default: %(default)s)")
    loader.add_argument(
        "--images", type=int, default=4000, metavar="N", help="at least so many an epoch (default: %(default)s)"
    )
    loader.add_argument("--repeats", type=int, default=5, metavar="N", help="timed epochs (default: %(default)s)")
    loader.add_argument(
        "--peers",
        metavar="NAME,...",
        help="of ffcv, ffcv+ours, torchvision, torchvision-io, dali, tensorflow, or '' for none (default: all)",
    )
    loader.add_argument("--json", type=Path, metavar="OUT.json", help="write all figures, and a chart to OUT.png")
    _add_save(loader)

    evaluation = kinds.add_parser(
        "evaluation",
        help="an evaluation beside its forward passes alone",
        description="Measure what reading, decoding and cropping add to the forward passes of an evaluation.",
    )
    evaluation.add_argument("beton", metavar="FILE.beton", type=Path, help="the images")
    evaluation.add_argument("--model", default="resnet50", metavar="NAME", help="network (default: %(default)s)")
    evaluation.add_argument(
        "--protocol",
        default="ten-crop",
        metavar="center|ten-crop|multi-scale|multi-scale-dense",
        help="which views (default: %(default)s)",
    )
    evaluation.add_argument("--images", type=int, default=256, metavar="N", help="how many (default: %(default)s)")
    evaluation.add_argument("--batch", type=int, default=256, metavar="N", help="crops a batch (default: %(default)s)")
    evaluation.add_argument("--repeats", type=int, default=3, metavar="N", help="timed pairs (default: %(default)s)")
    evaluation.add_argument("--json", type=Path, metavar="OUT.json", help="write all figures")

    step = kinds.add_parser(
        "step",
        help="a recipe's training step, beside others'",
        description="Measure images/s, memory and FLOP/s of RECIPE's training step on this device, interleaved with "
        "peers' steps in one run. The rest of the machine should be idle.",
    )
    step.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the folder of a run")
    step.add_argument("overrides", metavar="key=value", nargs="*", help="values that replace the recipe's")
    images = step.add_mutually_exclusive_group()
    images.add_argument(
        "--synthetic",
        dest="data",
        action="store_const",
        const=None,
        help="only on a batch that lies on the device; no data are needed (the default)",
    )
    images.add_argument("--data", type=Path, metavar="FILE.beton", help="also on these images, through our loader")
    step.add_argument("--peers", default="", metavar="NAME,...", help="of torchvision, timm (default: none)")
    step.add_argument(
        "--depths", metavar="N,...", help="of 18, 34, 50, 101, 152: ResNets in the place of the recipe's network"
    )
    step.add_argument(
        "--batch", metavar="N|best,...", help="images in a step; best: looked for (default: the recipe's micro-batch)"
    )
    step.add_argument("--repeats", type=int, default=7, metavar="N", help="timed repetitions (default: %(default)s)")
    step.add_argument("--json", type=Path, metavar="OUT.json", help="write all figures, and a chart to OUT.png")
    step.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="write a Chrome trace, and a table of kernels and idle gaps"
    )
    _add_save(step)


def _add_save(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--save",
        nargs="?",
        type=Path,
        const=Path("plan.yaml"),
        metavar="FILE",
        help="keep the figures for `trainer plan` (default, without FILE: plan.yaml)",
    )


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="whether this machine, these data and this launch are fit for a run",
        description="Check versions, GPUs, cores, memory, disk and limits; with RECIPE or --data, against them. Each "
        "line is ok, warn or fail, with what to do; exits with 1 if one fails. Under accelerate launch the links "
        "between the processes are measured, too. Nothing is written.",
    )
    doctor.add_argument("recipe", metavar="RECIPE", nargs="?", help="a YAML file, or the folder of a run")
    doctor.add_argument("overrides", metavar="key=value", nargs="*", help="values that replace the recipe's")
    doctor.add_argument(
        "--data", metavar="FILE.beton", nargs="+", action="extend", type=Path, default=[], help="more data to look at"
    )


def _add_job(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    job = commands.add_parser(
        "job",
        help="what a batch job of a recipe needs, for the scripts in launch/",
        description="Print lines key=value: recipe (the words that train takes), run (its folder), train and val (its "
        "data). With --processes, first check what would end the job as soon as it starts.",
    )
    job.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file, or the folder of a run")
    job.add_argument("overrides", metavar="key=value", nargs="*", help="values that replace the recipe's")
    job.add_argument("--sweep", action="store_true", help="RECIPE is a list of recipes, as `sweep` takes; print each")
    job.add_argument(
        "--processes", type=int, metavar="N", help="check data, network, free space, and the batch of so many processes"
    )
    job.add_argument("--data-later", action="store_true", help="the data are still to be converted")


def _add_stage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = commands.add_parser(
        "stage",
        usage="%(prog)s FILE.beton ... --to FOLDER [--how copy|mmap-shared] -- COMMAND ...",
        help="a command, with its betons copied to this node's own disk or memory",
        description="Copy each FILE.beton, with what lies beside it, to FOLDER, verify it, and run COMMAND. A command "
        "of the trainer reads the copies wherever it is told to read the files; in the words of another one {0} stands "
        "for the first file's copy, {1} for the second's. The copies are shared with your other jobs on this node, and "
        "the last one removes them. A file that does not fit is read where it is. Ends with COMMAND's status.",
        epilog="example: python -m trainer stage data/train.beton data/val.beton --to /scratch -- accelerate launch "
        "-m trainer train RECIPE",
    )
    stage.add_argument("files", metavar="FILE.beton", nargs="+", type=Path, help="the files to copy")
    stage.add_argument(
        "--to", metavar="FOLDER", type=Path, help="on a local file system (default of mmap-shared: /dev/shm)"
    )
    stage.add_argument(
        "--how",
        default="copy",
        metavar="copy|mmap-shared",
        help="mmap-shared: FOLDER is in memory, and all processes of the node map the one copy (default: %(default)s)",
    )


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="on paper, what limits a run on some GPUs, and how long it takes",
        description="Compute, from published figures or your own (trainer bench step --save), what images/s each "
        "resource would sustain, which one limits RECIPE, how long it takes and what would help. Runs nothing.",
    )
    plan.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the folder of a run")
    plan.add_argument("overrides", metavar="key=value", nargs="*", help="values that replace the recipe's")
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="how many (default: %(default)s)")
    plan.add_argument(
        "--gpus-per-node", type=int, default=1, metavar="G", help="or processes, on CPUs (default: %(default)s)"
    )
    plan.add_argument(
        "--gpu",
        required=True,
        metavar="NAME",
        help="v100, a100, h100, h200, rtx3090, rtx4090, rtx6000ada, l40s, cpu, or one that you measured",
    )
    plan.add_argument("--cores", type=int, metavar="C", help="CPU cores of a node (default: 8 a GPU)")
    plan.add_argument(
        "--storage-gbps", type=float, metavar="X", help="Gbit/s that all nodes together read (default: not counted)"
    )
    plan.add_argument("--network-gbps", type=float, metavar="X", help="Gbit/s of a node to others (default: 100)")
    plan.add_argument("--memory-gb", type=float, metavar="X", help="memory of a node, GB (default: 256)")
    plan.add_argument(
        "--constants", type=Path, metavar="FILE", help="your own figures (default: plan.yaml, if it is there)"
    )
    plan.add_argument("--out", type=Path, metavar="CURVE.png", help="draw images/s of 1 to 1024 GPUs")
    plan.add_argument("--json", action="store_true", dest="as_json", help="print everything as JSON")
