"""`python -m trainer train | evaluate | recalibrate | ...`, alone or under `accelerate launch -m trainer ...`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from trainer.command_line import parse
from trainer.errors import UsageError, run_command


# The commands import what they need themselves, so that --help and usage errors do not wait for torch.
def _train(args: argparse.Namespace) -> int:
    from trainer.stops import Stop, end_with_launcher

    end_with_launcher()
    stop = Stop()
    stop.listen()
    from trainer.attempt import refuse, repeat_end
    from trainer.recipe import load_recipe

    try:
        recipe = load_recipe(args.recipe, args.overrides)
    except UsageError as error:
        refuse(args.recipe, error)
        raise
    if repeat_end(recipe.run_dir):
        return 0
    stop.set_grace(recipe.trainer.stop_grace)
    stop.max_hours = recipe.trainer.max_hours
    from trainer.train import train

    train(recipe, stop)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from trainer.evaluation.options import parse_options

    options = parse_options(args)
    from trainer.evaluation.command import evaluate_checkpoints

    evaluate_checkpoints(args.checkpoints, args.data, options)
    return 0


def _recalibrate(args: argparse.Namespace) -> int:
    from trainer.recalibration import recalibrate_checkpoint

    recalibrate_checkpoint(args.checkpoint, args.data, images=args.images, out=args.out)
    return 0


def _publish(args: argparse.Namespace) -> int:
    from trainer.publish.options import parse_options

    if args.verify is not None:
        if args.checkpoint is not None or args != parse(["publish", "--verify", str(args.verify)]):
            raise UsageError("--verify checks a folder and writes nothing: give that folder alone")
        from trainer.publish.verify import verify_folder

        verify_folder(args.verify)
        return 0
    if args.out is None:
        raise UsageError("give CHECKPOINT and OUT_DIR, or --verify OUT_DIR")
    options = parse_options(args)
    from trainer.publish.command import publish

    publish(args.checkpoint, args.out, options)
    return 0


def _report(args: argparse.Namespace) -> int:
    from trainer.report.command import report

    report(args.runs, args.out)
    return 0


def _preview(args: argparse.Namespace) -> int:
    from trainer.preview import preview

    preview(args.recipe, args.overrides, args.out)
    return 0


def _responses(args: argparse.Namespace) -> int:
    from trainer.choices import TRUTHS, parse_choice

    ema = parse_choice("--ema", args.ema, TRUTHS) == "true"
    from trainer.responses import layer_responses

    layer_responses(args.checkpoint, args.data, images=args.images, ema=ema, out=args.out)
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from trainer.sweep import print_launch_lines, print_table, sweep

    if args.lines and args.out:
        raise UsageError("--out is where the table goes: it does not go with --print")
    if args.lines:
        print_launch_lines(args.file, args.overrides)
    elif args.table:
        print_table(args.file, args.overrides, args.out)
    else:
        sweep(args.file, args.overrides, args.out)
    return 0


def _status(args: argparse.Namespace) -> int:
    from trainer.status import show_status

    show_status(args.runs, watch=args.watch, as_json=args.json)
    return 0


def _bench_loader(args: argparse.Namespace) -> int:
    from trainer.bench.loader import Options, bench_loader, parse_peers, parse_workers

    options = Options(
        beton=args.beton,
        crop=args.crop,
        workers=parse_workers(args.workers),
        batch=args.batch,
        size=args.size,
        images=args.images,
        repeats=args.repeats,
        peers=parse_peers(args.peers),
        json=args.json,
        save=args.save,
    )
    return bench_loader(options)


def _bench_evaluation(args: argparse.Namespace) -> int:
    from trainer.bench.evaluation import Options, bench_evaluation

    return bench_evaluation(
        Options(args.beton, args.model, args.protocol, args.images, args.batch, args.repeats, args.json)
    )


def _bench_step(args: argparse.Namespace) -> int:
    from trainer.bench.step.options import Options, parse_batches, parse_depths, parse_peers

    options = Options(
        recipe=args.recipe,
        overrides=tuple(args.overrides),
        data=args.data,
        peers=parse_peers(args.peers),
        depths=parse_depths(args.depths),
        batches=parse_batches(args.batch),
        repeats=args.repeats,
        json=args.json,
        profile=args.profile,
        save=args.save,
    )
    from trainer.bench.step.command import bench_step

    return bench_step(options)


def _plan(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from trainer.plan import Options, plan

    plan(args.recipe, args.overrides, Options(**{entry.name: getattr(args, entry.name) for entry in fields(Options)}))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from trainer.doctor import doctor

    return doctor(args.recipe, args.overrides, args.data)


def _job(args: argparse.Namespace) -> int:
    from trainer.job import describe_job

    for line in describe_job(
        args.recipe, args.overrides, sweep=args.sweep, processes=args.processes, data_later=args.data_later
    ):
        print(line)
    return 0


def _stage(args: argparse.Namespace) -> int:
    from trainer.staging import stage

    return stage(args.files, args.to, args.how, args.words)


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "train": _train,
    "evaluate": _evaluate,
    "recalibrate": _recalibrate,
    "publish": _publish,
    "report": _report,
    "preview": _preview,
    "responses": _responses,
    "sweep": _sweep,
    "status": _status,
    "plan": _plan,
    "doctor": _doctor,
    "job": _job,
    "stage": _stage,
    "bench": lambda args: BENCHES[args.kind](args),
}
BENCHES: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "loader": _bench_loader,
    "evaluation": _bench_evaluation,
    "step": _bench_step,
}


def main(argv: Sequence[str] | None = None) -> int:
    # On a CPU the network's OpenMP threads share the cores with the decoding threads: those that wait must not spin.
    # Read when torch is loaded, so it has to be said before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells people of its own affairs otherwise
    args = parse(argv)
    return run_command(lambda: COMMANDS[args.command](args))


if __name__ == "__main__":
    sys.exit(main())
