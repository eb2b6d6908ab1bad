"""The command line: `relujax census`, `relujax flow`, `relujax spectrum`, `relujax study`."""

import itertools
import math
import os
import platform
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from . import __version__
from ._extras import extra

typer = extra("typer", "cli")
extra("rich", "cli")

from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

app = typer.Typer(
    name="relujax",
    help="Dynamics and landscapes of shallow ReLU networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

study = typer.Typer(help="Published systems: each a setting, a run, claims and a figure.", no_args_is_help=True)
app.add_typer(study, name="study")

Out = Annotated[Path | None, typer.Option(help="Folder for data and figures; a fresh numbered one without it.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]
Force = Annotated[bool, typer.Option(help="Replace the run that --out holds.")]
Seed = Annotated[int, typer.Option(help="Seed of the random starts.")]


class Unfinished(Exception):
    """Work that stopped before its end, with a sentence that says what there is; exit code 1."""

    def __init__(self, sentence: str, *, interrupted: bool = False):
        super().__init__(sentence)
        self.interrupted = interrupted


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False):
    if version:
        print(f"relujax {__version__}")
        raise typer.Exit


@app.command()
def census(
    neurons: Annotated[list[int], typer.Option(help="Numbers k of teacher neurons and inputs, one or several.")],
    students: Annotated[str, typer.Option(help="Student neurons: a number, or K, K+1, K+2, ….")] = "K",
    inits: Annotated[int, typer.Option(help="Random starts for every k.")] = 500,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = None,
):
    """Which minima does gradient flow find when students learn k orthonormal teachers, and how often?"""
    _check_positive(inits=inits)
    _check_seed(seed)
    for k in neurons:
        _check_positive(neurons=k)
        if neurons.count(k) > 1:
            raise ValueError(f"--neurons names {k} twice: give every number once.")
    widths = [_students(students, k) for k in neurons]
    _work_in_threads()
    _set_up_jax()
    import jax

    from . import initialise, plot, problems, report, runs
    from .census import census as run_census

    arguments = {"neurons": neurons, "students": students, "inits": inits, "seed": seed}
    run = runs.Run("census", arguments, out=out, force=force)
    _check_json(json)
    console = _stdout()
    summaries: list[dict] = []
    with _keeping(run, summaries):
        for k, width in zip(neurons, widths, strict=True):
            loss = problems.orthonormal_teacher(k)
            key = jax.random.fold_in(jax.random.key(seed), k)
            nets = initialise.xavier(key, number=inits, width=width, dim=k, amplitudes=1.0, train=("weights",))
            with _progress(f"k = {k}", inits) as progress:
                found = run_census(loss, nets, progress=progress, history=_history_times(1e3))
            found.attrs["title"] = f"k = {_counted(k, 'teacher')}, {_counted(width, 'student')}"
            name = f"k{k:03d}" if width == k else f"k{k:03d}-n{width:03d}"
            run.save(name, found)
            _save_figures(run, plot, found, name, width_in=k)
            summaries.append(report.census_summary(found, neurons=k, students=width, dim=k, inits=inits, seed=seed))
            if found.sizes["point"]:
                report.print_points(found, console, title=f"{found.attrs['title']}, {_counted(inits, 'start')}")
            unresolved = summaries[-1]["unresolved"]
            if unresolved:
                console.print(f"Starts that reached no critical point, counted as unresolved: {unresolved}.")
    run.finish(summaries)
    if json is not None:
        runs.write_json(json, summaries)
    console.print(f"Data and figures are in {run.path}.", highlight=False)


@app.command()
def flow(
    data: Annotated[str, typer.Argument(help="DATA.csv, DATA.npz, breast-cancer or diabetes.")],
    width: Annotated[int, typer.Option(help="Neurons of the network.")] = 50,
    inits: Annotated[int, typer.Option(help="Random starts.")] = 1024,
    scale: Annotated[float, typer.Option(help="Scale of the initial parameters.")] = 1e-3,
    init: Annotated[str, typer.Option(help="Law of the starts: balanced, xavier, kaiming, ….")] = "balanced",
    bias: Annotated[bool, typer.Option("--bias/--no-bias", help="Hidden biases.")] = True,
    end_time: Annotated[float, typer.Option(help="Flow time at which to stop.")] = 100.0,
    gradient_norm: Annotated[
        float | None, typer.Option(help="Gradient norm at which to stop.", show_default="20 times the tolerance")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative tolerance of the integration.")] = 1e-4,
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = None,
):
    """Where does gradient flow on these data end, from many random starts?"""
    _check_positive(width=width, inits=inits, end_time=end_time, tolerance=tolerance)
    gradient_norm = 20 * tolerance if gradient_norm is None else gradient_norm
    _check_positive(gradient_norm=gradient_norm)
    _check_seed(seed)
    if tolerance >= 1:
        raise ValueError(f"--tolerance is {tolerance}: give a number between 0 and 1.")
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"--scale is {scale}: give a finite number that is not negative.")
    _work_in_threads()
    _set_up_jax()
    import jax
    import numpy as np

    from . import datasets, initialise, plot, report, runs
    from .census import census as run_census

    if init not in initialise.LAWS:
        raise ValueError(f"--init is {init!r}: choose among {', '.join(initialise.LAWS)}.")
    arguments = {
        "data": data, "width": width, "inits": inits, "scale": scale, "init": init, "bias": bias,
        "end_time": end_time, "gradient_norm": gradient_norm, "tolerance": tolerance, "seed": seed,
    }  # fmt: skip
    run = runs.Run("flow", arguments, out=out, force=force)
    _check_json(json)
    loaded = datasets.load(data)
    loss, dim = loaded.loss(), loaded.inputs.shape[1]
    nets = initialise.LAWS[init](jax.random.key(seed), number=inits, width=width, dim=dim, scale=scale, biases=bias)
    console = _stdout()
    console.print(f"{loaded.name}: {loaded.description}", highlight=False)
    with _keeping(run, []):
        with _progress(loaded.name, inits) as progress:
            found = run_census(
                loss, nets, progress=progress, history=_history_times(end_time),
                end_time=end_time, gradient_norm=gradient_norm, rtol=tolerance, atol=tolerance,
            )  # fmt: skip
        found.attrs["title"] = f"{loaded.name}, {_counted(width, 'neuron')}"
        run.save("flow", found)
        _save_figures(run, plot, found, "flow", width_in=dim, data=loaded)
    points = report.census_summary(found)
    summary = {**arguments, "networks": report.network_summary(found), **points}
    if found.sizes["point"]:
        report.print_points(found, console, title=f"{found.attrs['title']}, {_counted(inits, 'start')}")
    words, counts = np.unique(found["flow_status"].values, return_counts=True)
    console.print(
        "Flows: " + ", ".join(f"{count} {word}" for word, count in zip(words, counts, strict=True)) + ".",
        highlight=False,
    )
    moving = int(np.sum(found["flow_status"].values == "end time"))
    if moving:
        console.print(
            f"{_counted(moving, 'flow')} still moved at time {end_time:g}: --end-time takes a later one.", highlight=False
        )
    run.finish(summary)
    if json is not None:
        runs.write_json(json, summary)
    console.print(f"Data and figures are in {run.path}.", highlight=False)
    if not found.sizes["point"]:
        raise Unfinished("No flow reached its gradient norm or its end time: lower --scale or loosen --tolerance.")


@app.command()
def spectrum(
    point: Annotated[Path, typer.Argument(help="NPZ file with weights, and what else describes the point.")],
    json: Json = None,
):
    """The Hessian spectrum at one point, with multiplicities, and what kind of point it is."""
    _set_up_jax()
    import numpy as np

    from . import hessian, runs
    from .critical import classify
    from .loss import EmpiricalLoss
    from .points import load_point

    _check_json(json)
    loss, net = load_point(point)
    verdict = classify(loss, net)
    status = str(verdict.status)
    groups = hessian.multiplicities(verdict.eigenvalues[np.isfinite(verdict.eigenvalues)])
    console = Console(highlight=False)
    console.print(f"loss           {float(verdict.loss):.15g}")
    console.print(f"gradient norm  {float(verdict.gradient_norm):.3e}")
    console.print(f"verdict        {status}")
    console.print(f"index          {int(verdict.index)}")
    console.print(f"nullity        {int(verdict.nullity)}, of which explained {int(verdict.nullity_explained)}")
    if int(verdict.dead):
        console.print(f"dead neurons   {int(verdict.dead)}")
    console.print("eigenvalue            multiplicity")
    for value, count in groups:
        console.print(f"{value:<21.12g} {count}")
    if isinstance(loss, EmpiricalLoss):
        console.print(hessian.ALMOST_EVERYWHERE)
    if json is not None:
        runs.write_json(
            json,
            {
                "loss": float(verdict.loss),
                "gradient_norm": float(verdict.gradient_norm),
                "status": status,
                "index": int(verdict.index),
                "nullity": int(verdict.nullity),
                "eigenvalues": [[value, count] for value, count in groups],
            },
        )


@study.command("list")
def study_list():
    """Every study with its paper and, from its last run in a folder here, the state of its claims."""
    from . import report, studies

    rows = [(studies.find(name), studies.last_summary(name)) for name in studies.names()]
    report.print_studies(rows, _stdout())


@study.command("run")
def study_run(
    name: Annotated[str, typer.Argument(help="A study of the list, or a Python file that ends with STUDY = ….")],
    quick: Annotated[bool, typer.Option("--quick", help="The small form, at most 90 seconds on two cores.")] = False,
    out: Out = None,
    force: Force = False,
    json: Json = None,
):
    """Run a study, check its claims, draw its figures. An unfinished run goes on when --out names its folder."""
    _work_in_threads()
    _set_up_jax()
    from . import report, runs, studies

    _check_json(json)
    chosen = studies.find(name)
    console = _stdout()
    console.print(f"{chosen.name}: {chosen.about} {chosen.paper}.", highlight=False, markup=False)
    if not quick:
        console.print(f"The full setting takes {chosen.cost}.", highlight=False)
    try:
        with Console(stderr=True).status("") as status:
            done = studies.run(chosen, quick=quick, out=out, force=force, announce=lambda piece: status.update(f"… {piece}"))
    except KeyboardInterrupt as stop:
        folder = stop.args[0] if stop.args else "with the folder of the run"
        raise Unfinished(f"Interrupted: --out {folder} goes on with it.", interrupted=True) from None
    report.print_claims(done.claims, console)
    if json is not None:
        runs.write_json(json, done.as_json())
    console.print(f"Data and figures are in {done.path}.", highlight=False)
    if not done.passed:
        failed = [claim.name for claim in done.claims if not claim.passed]
        raise Unfinished(f"{len(failed)} of {len(done.claims)} claims failed: {'; '.join(failed)}.")


def main(argv: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2, unfinished work exit code 1."""
    as_program = argv is None
    argv = _repeat_option(sys.argv[1:] if argv is None else argv, "--neurons")
    try:
        code = app(argv, standalone_mode=False)
    except (ValueError, ImportError) as error:
        _fail(str(error), 2)
    except OSError as error:
        # our own have no number; the system's name no remedy
        system = f"{error.filename or 'a file'} cannot be read or written ({error.strerror}): check the path and the disk."
        _fail(str(error) if error.errno is None else system, 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Interrupted.", 1)
    except Unfinished as error:
        if as_program and error.interrupted:
            # what the devices still compute would hold up an orderly exit until it is done
            print(f"relujax: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        _fail(str(error), 1)
    except Exception as error:
        # typer's usage errors; which package defines them depends on its version
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        _fail(_usage(error.format_message().rstrip("."), argv), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence, code):
    print(f"relujax: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)


def _usage(message, argv):
    """A usage error of typer with the value that is at fault and what to give instead."""
    option = re.search(r"'(--[a-z-]+)'", message)
    if option is None or not message.startswith("Invalid value"):
        return f"{message}: relujax --help tells what there is."
    parse, kind = (int, "a whole number") if "integer" in message else (float, "a number")
    given = [word for before, word in itertools.pairwise(argv) if before == option[1]]
    given += [word.removeprefix(f"{option[1]}=") for word in argv if word.startswith(f"{option[1]}=")]
    wrong = [word for word in given if not _can(parse, word)]
    return f"{option[1]} is {wrong[0]!r}: give {kind}." if wrong else f"{message}: relujax --help tells what there is."


def _can(parse, word):
    try:
        parse(word)
    except ValueError:
        return False
    return True


def _repeat_option(argv, option):
    """`--option 6 8 10` as `--option 6 --option 8 --option 10`, which is how typer takes several values."""
    out, open_ = [], False
    for word in argv:
        if word == option:
            open_ = True
            continue
        if open_ and re.fullmatch(r"[^-].*|-\d.*", word):
            out += [option, word]
            continue
        if open_ and out[-2:-1] != [option]:
            out.append(option)
        open_ = False
        out.append(word)
    return [*out, option] if open_ and out[-2:-1] != [option] else out


def _counted(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _students(text, k):
    match = re.fullmatch(r"(?:[kK](?:([+-])(\d+))?|(\d+))", text.strip())
    if match is None:
        raise ValueError(f"--students is {text!r}: give a number, or K, K+1, K+2, ….")
    sign, shift, number = match.groups()
    width = int(number) if number else k + int(f"{sign or '+'}{shift or 0}")
    if width < 1:
        raise ValueError(f"--students {text} leaves {width} students at k = {k}: at least 1 is needed.")
    return width


def _check_positive(**values):
    for name, value in values.items():
        if not 0 < value < math.inf:
            kind = "whole" if isinstance(value, int) else "finite"
            raise ValueError(f"--{name.replace('_', '-')} is {value}: give a {kind} number above 0.")


def _check_seed(seed):
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}: give a whole number from 0 to 2^63 − 1.")


def _check_json(path):
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"--json {path} lies in a folder that does not exist: make {path.parent} first.")
    if path is not None and path.is_dir():
        raise ValueError(f"--json {path} is a folder: give a file name.")
    if path is not None and not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ValueError(f"--json {path} cannot be written: give a file elsewhere.")


def _work_in_threads():
    """One thread a chunk of the ensemble, and none for the small matrices inside; before NumPy is imported."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _set_up_jax():
    """Double precision, and compiled functions kept for the next command unless the user has said where, or not at all."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        # code compiled for one machine may not run on another that shares the home folder
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "relujax" / f"compiled-{platform.node()}"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@contextmanager
def _keeping(run, summaries):
    """On an interrupt say what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"what was finished is in {run.path}" if summaries else "nothing was finished"
        raise Unfinished(f"Interrupted: {kept}.", interrupted=True) from None


def _stdout():
    """A console for tables: as wide as the terminal, and wide enough for every column when there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


@contextmanager
def _progress(label, number):
    """A progress bar on stderr that goes away at the end; none where stderr is no terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=number)
        yield lambda finished, total: bar.update(task, completed=finished, total=total)


def _history_times(end_time):
    """Where a picture of the loss over the logarithm of time is to have its points."""
    import numpy as np

    return np.geomspace(min(1e-2, end_time / 1e3), end_time, 81)


def _save_figures(run, plot, found, name, *, width_in, data=None):
    pictures = {"loss": plot.loss_history, "ends": plot.end_points}
    if data is None:
        pictures["spectra"] = plot.spectra
    else:
        pictures["starts"] = plot.losses_against_gradient_norm
    if "loss_history" not in found:
        del pictures["loss"]
    rows = min(found.sizes["point"], 14)
    for word, draw in pictures.items():
        fig, ax = plot.figure(height=1.4 + 0.35 * max(rows, 3) if word in ("ends", "spectra") else 4.2)
        draw(found, ax)
        run.save_figure(f"{name}-{word}", fig)
    if not found.sizes["point"]:
        return
    if width_in == 2:
        fig, ax = plot.figure(5.0, 5.0)
        plot.neurons_in_the_plane(found, ax)
        run.save_figure(f"{name}-neurons", fig)
    if width_in == 1 and data is not None:
        fig, ax = plot.figure()
        plot.fitted_function(found, data.inputs, data.targets, ax)
        run.save_figure(f"{name}-fit", fig)


if __name__ == "__main__":
    main()
