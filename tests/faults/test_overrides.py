"""Random command lines train, or end with a one-line error.

They never end with a traceback or exit status 1, write outside of the output folder, run foreign code, or hang.
"""

import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import matplotlib.font_manager  # noqa: F401  writes its cache before the tests change HOME
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import OverrideParseException
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from gantrain.command.cli import main
from gantrain.command.explain import known_keys, options
from gantrain.command.folders import claim_folder, register
from gantrain.command.help import groups
from gantrain.config import LIST_GROUPS
from gantrain.session.signals import Stopped
from gantrain.train import train as algorithm

pytestmark = [pytest.mark.timeout(1800, method="thread"), pytest.mark.filterwarnings("ignore")]  # it uses signals
NUM_SHARDS, NUM_EXAMPLES, SECONDS = 3, 60 if os.environ.get("GANTRAIN_FULL") == "1" else 12, 30
SMALL = (
    *("model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "steps=2"),
    "callback=[evaluate,log,samples,checkpoint,csv,progress]",
)

# Arguments ----------------------------------------------------------------------------------------------------------


def split(text: str) -> tuple[str, ...]:
    """Split at two or more spaces, and at line ends."""
    return tuple(re.split(r"\s{2,}", text.strip()))


register(fixed_run_dir=False)
KEYS = sorted({key for chosen in ([], ["model=wgan_gp", "dataset=image_folder"]) for key in known_keys(chosen)})
GROUPS = groups()
NEAR = split("""
    stpes  lr  sede  model.genrator.width  optimizer.lrr  optimizer.lr.x  seed.x.y  näm  a b  optimizer@loss
    loss@model  optimizer@  @x  dataset/gaussian  /seed  seed.  .seed  [0]  steps[0]
""")
NEAR += ("",)

EXTREMES = split("""
    0  -1  1  -0.0  0.5  1e308  -1e308  nan  inf  -inf  1e-320  true  null  ''  ' '  1000000000  1000000000000000000
    2147483648  9223372036854775807  9223372036854775808  18446744073709551616  -9223372036854775808
    -18446744073709551616  0x7fffffffffffffff  1_000  1e400  9999999999999999999.5
""")
EXTREMES += ("1" + "0" * 400, "1" + "0" * 5000)
WRONG = split("""
    abc  []  {}  [1,2]  [[[]]]  {a: 1}  {a: {b: [c]}}  [null]  [nan,nan]  [1e308,1e308]  [0.5,x]  {}.x  [1  {a  'a
    "a  a'b  a,b  a:b  a=b  =  $  ${  ${}  %s  {0}  !!python/name:os  ~  -  --  ???  [???]  {a: ???}
""")
WRONG += ("\\", "[" * 200 + "]" * 200, "{a: " * 100 + "1" + "}" * 100, "x" * 5000)
UNICODE = split("""
    ünïcödé  ٣  e\u0301  \u202eabc  \u200b  💀  \udcff  a\udc80b  \x00  a\x00b  \x1b[31m  \x7f  \ufeff
    [bold]x[/bold]  [/]
""")
UNICODE += ("a\nb", "a\tb", "\r", "A\u0300" * 500)
INTERPOLATIONS = split("""
    ${seed}  ${batch_size}  ${steps}  ${nothing}  ${.}  ${..seed}  ${optimizer}  ${optimizer.lr}  ${dataset}
    ${oc.env:HOME}  ${oc.env:NOTHING}  ${oc.env:NOTHING,x}  ${now:%s}  ${now:}  ${hydra:runtime.cwd}  ${hydra:x}
    ${run_folder:x,null}  ${run_folder:/x}  ${sweep_folder:..}  ${no_sweep:}  ${unknown:1}  ${python_version:}
    ${oc.decode:'[1'}  ${oc.decode:'1e999'}  ${oc.create:{a:1}}  ${oc.create:[1,2]}  ${oc.select:seed}
    ${oc.deprecated:seed}  ${oc.dict.keys:optimizer}  ${oc.dict.values:optimizer}  ${oc.env:${oc.env:HOME}}
    ${${seed}}  x${seed}x  ${run_dir}  ${num}  ${hydra.run.dir}  ${hydra:job}  ${model}  ${trust}  [${seed}]
    {a: ${seed}}
""")
INTERPOLATIONS += ("\\${seed}",)
TARGETS = split("""
    os.system  subprocess.run  subprocess.Popen  builtins.eval  builtins.exec  builtins.print  gantrain.command.cli.main
    gantrain.losses.base.torch.hub.load  gantrain.losses.lsgan.Tensor  gantrain.tasks.train.train  gantrain.losses
    gantrain.losses.lsgan.LSGAN  torch.optim.Adam  torch.optim.adam.torch.load  torch.load  evil.Loss  evil
    gantrain.models.mlp.Generator  gantrain.callbacks.checkpoint.shutil.rmtree  gantrain.datasets.toys.gaussian  ..
    a..b  pathlib.Path.write_text  gantrain.callbacks.checkpoint.os.system  gantrain.models.layers.nn.Linear
    torch.optim.Optimizer  gantrain.metrics.moments.Moments  gantrain.regularizers.base.Regularizer
    logging.FileHandler  7  null  [os.system]
""")
TARGETS += ("",)
PATHS = split("""
    places/run  places/file.txt  places/empty  places/broken  places/bomb  places/list  places/hostile
    places/garbage  places/edited  places/links  places/binary  places/run/checkpoints  places/run/run.json
    places/run/../run  ../sibling  /dev/null  /dev/null/x  /proc/self  /proc/self/mem  ''  .  ..  auto  nowhere  /
    places/photos  places/half  places/run/checkpoints/step_00000002.pt  'places/run'  null  ~  places/deep
""")
PATHS += ('"places/run"',)
RUN_DIRS = split("""
    mine  mine/deeper/down  'my run'  'ünï cödé'  '💀'  places/run  places/empty  places/garbage  places/hostile
    places/file.txt  places/file.txt/x  /dev/null  /dev/null/x  /proc/self/x  ../sibling/mine  ''  null  7  1.0
    ${oc.env:HOME}/mine  mine/${seed}  mine/${now:%s}  mine-${nothing}  places/links  places/broken
    outputs/multirun/x  'a b'  mine,other  mine/${hydra:job.num}  'a%b'  places/bomb  [mine]
""")
RUN_DIRS += (f"'{'x' * 300}'", r"'a\'b'")
OUTPUTS = split("""
    out.npz  out.png  x.txt  places/file.txt  nowhere/out.npz  ''  null  /dev/null  places/run  ../sibling/o.npz
    'ü.npz'  places/run/out.npz  .npz  outputs/out.npz  ${oc.env:HOME}/o.png
""")
OUTPUTS += (f"'{'x' * 300}.npz'",)
PATH_KEYS = ("run_dir", "output", "dataset.root", "dataset.cache_dir", "resume")
"""Keys whose values are paths that the command may write to."""

HYDRA = split("""
    hydra.run.dir=foreign  hydra.sweep.dir=foreign  hydra.sweep.subdir=../../foreign  hydra.sweep.subdir=${seed}
    hydra.output_subdir=foreign  hydra.output_subdir=../foreign  hydra.job.chdir=true  hydra.job.name=../../foreign
    hydra.searchpath=[foreign]  hydra.searchpath=[pkg://evil]  hydra.searchpath=[file://places/confs]
    hydra.verbose=true  hydra.verbose=hydra  hydra.verbose=[a,b]  hydra.verbose={a: b}  hydra.mode=MULTIRUN
    hydra.mode=RUN  hydra.mode=x  hydra/launcher=basic  hydra/launcher=joblib  hydra/launcher=nowhere
    hydra/sweeper=basic  hydra/sweeper=optuna  hydra/job_logging=default  hydra/job_logging=stdout
    hydra/job_logging=disabled  hydra/hydra_logging=default  hydra.job_logging.handlers.file.filename=foreign.log
    +hydra.job_logging.handlers={x: {class: logging.FileHandler, filename: foreign}}  hydra/hydra_logging=colorlog
    hydra/output=default  hydra/env=default  hydra/help=default  hydra/callbacks=default
    +hydra.callbacks.x._target_=os.system  +hydra.callbacks={x: {_target_: os.system, command: touch foreign}}
    +hydra.callbacks.x=1  +hydra.callbacks={x: {_target_: evil.Loss}}
    +hydra.callbacks={x: {_target_: pathlib.Path.touch, self: foreign}}  hydra.launcher._target_=os.system
    hydra.sweeper._target_=os.system  hydra.sweeper._target_=hydra_plugins.evil.X  hydra.launcher=null
    +hydra.launcher.x._target_=os.mkdir  +hydra.launcher={x: {_target_: os.mkdir, path: foreign}}
    hydra.sweeper=null  hydra=null  hydra.sweeper.max_batch_size=0  hydra.sweeper.max_batch_size=1
    hydra.sweeper.max_batch_size=-1  hydra.sweeper.max_batch_size=null  hydra.sweeper.params={seed: '1,2'}
    +hydra.sweeper.params.seed=1  +hydra.sweeper.params={run_dir: foreign}  hydra.env.x=1  hydra.job.env_set={A: b}
    hydra.job.env_set={HOME: '/'}  hydra.job.env_copy=[A]  hydra.runtime.cwd=/  hydra.runtime.output_dir=foreign
    hydra.job.num=7  hydra.job.id=x  hydra.overrides.task=[seed=1]  hydra.runtime.choices.model=x  ~hydra
    ~hydra.run  hydra.job.config_name=x  ~hydra/launcher  +hydra.foo=1  ++hydra.run.dir=foreign
    +hydra.run={dir: foreign}  hydra.job={chdir: true}  hydra={run: {dir: foreign}}  hydra.run={dir: foreign}
    hydra/launcher@x=basic  hydra.hydra_logging={version: 1, handlers: {x: {'()': os.mkdir, path: foreign}}}
""")
FLAGS = split("""
    -m  --multirun  -r  --run  -c  --cfg  -p  --package  -i  --info  -cn  -cp  -cd  --resolve  -h  --help  --cfg=job
    --cfg=hydra  --cfg=all  --cfg=x  --info=all  --info=config  --info=defaults  --info=defaults-tree
    --info=plugins  --info=searchpath  --info=x  --package=optimizer  --package=nowhere  --package=_global_
    --hydra-help  --config-name=nowhere  --config-name=experiment/toy  --config-name=../places/broken
    --config-name=  --config-path=places  --config-path=/  --config-path=pkg://evil  --config-path=
    --config-dir=places/confs  --config-dir=nowhere  --config-dir=  --config-dir=places/file.txt
    --config-dir=/proc/self  --experimental-rerun=places/evil.pickle  --experimental-rerun=nowhere
    --shell-completion  -sc  -sc=query=bash  -sc=install=bash  -sc=uninstall=fish  --version  --unknown  -x  --  -
    ---  --config-dir=places/hostile_confs  --conf=x  --mul  --pack  -cjob  -mr
""")
CONFS = split("""
    experiment=hooks  experiment=folder  experiment=logs  experiment=launch  experiment=mine  experiment=trusting
    loss=evil
""")
TRUST = split("""
    []  [evil]  evil  [os]  [subprocess]  [builtins]  [gantrain]  [torch]  null  [.]  ['']  [7]  [[a]]  {a: b}
""")

values = st.one_of(
    *(st.sampled_from(some) for some in (EXTREMES, EXTREMES, WRONG, UNICODE, INTERPOLATIONS, PATHS[:12])),
    st.text(st.characters(exclude_characters="/", max_codepoint=0x2FFF), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from(NEAR))
prefixes = st.sampled_from(("", "", "", "", "", "+", "++", "~", "+~", "-", "~~"))


def assigned(key: st.SearchStrategy[str], value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}={}".format, prefixes, key, value)


def hard(key: st.SearchStrategy[str], value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}={}".format, key, value)


scalars = st.sampled_from([key for key in KEYS if "." in key or key not in GROUPS])
SWEEPS = split("""
    0,1  a,b  range(0,2)  range(2)  range(0,1000000000)  range(0,1,1e-300)  choice(0,1)  choice()  interval(0,1)
    glob(*)  glob(*,exclude=d*)  sort(2,1)  shuffle(range(0,3))  shuffle(range(0,10000000000))  tag(x,choice(0,1))
    int(a)  bool(3)  range(0)  range(nan,1)  range(0,1,0)  range(0,inf)  str([1,2])  null,null  json_str({a:1})
    extend_list(1)  ,  0,
""")
chosen = st.sampled_from([group for group in GROUPS if group not in LIST_GROUPS])
choices = chosen.flatmap(
    lambda group: st.sampled_from([f"{group}={option}" for option in (*options(group), "nowhere", "", "null")])
)
lists = st.sampled_from(LIST_GROUPS).flatmap(
    lambda group: st.lists(st.sampled_from((*options(group), "nowhere")), max_size=4).map(
        lambda some: f"{group}=[{','.join(some)}]"
    )
)
SPOTS = split("""
    task  loss  optimizer  discriminator_optimizer  latent  dataset  model.generator  model.discriminator  runtime
    model  callback.log  callback.x  callback.progress.x  callback.samples.num  metric.x  regularizer.x  checkpoint
    loss.x  regularizer.gradient_penalty  optimizer.betas  dataset.mean  latent.z_dim  seed  critic_warmup  hydra.x
""")
SPECIAL = split("_args_  _partial_  _recursive_  _convert_  _name_  _mode_  _method_")
NODES = split("""
    {{_target_: {0}, command: touch foreign}}  {{_target_: {0}, _args_: [touch foreign]}}  {{_target_: {0}, z_dim: 2}}
    {{_target_: {0}, x: {{_target_: os.system, command: touch foreign}}}}  {{_target_: {0}, _partial_: true}}
    {{_target_: {0}}}  [{{_target_: {0}}}]
""")
adding, spots, target = st.sampled_from(("", "+", "++")), st.sampled_from(SPOTS), st.sampled_from(TARGETS)
injections = st.one_of(
    st.builds("{}{}._target_={}".format, adding, spots, target),
    st.builds("{}{}.{}={}".format, adding, spots, st.sampled_from(SPECIAL), values),
    st.builds("{}{}={}".format, adding, spots, st.builds(str.format, st.sampled_from(NODES), target)),
)
path_overrides = st.one_of(
    hard(st.sampled_from(("resume", "init_from", "run")), st.sampled_from(PATHS)),
    hard(st.just("run_dir"), st.sampled_from(RUN_DIRS)),
    hard(
        st.sampled_from(("dataset.root", "dataset.cache_dir")),
        st.sampled_from([p for p in PATHS if not p.startswith(("/", ".", "'/"))]),
    ),
    hard(st.just("output"), st.sampled_from(OUTPUTS)),
    st.just("task=sample"),
    st.sampled_from(("allow_change=[seed,model]", "allow_change=[dataset]", "allow_change=[x]")),
)
overrides = st.one_of(
    assigned(keys, values),
    hard(scalars, st.sampled_from(EXTREMES)),
    hard(scalars, st.sampled_from(INTERPOLATIONS)),
    hard(scalars, st.sampled_from(SWEEPS)),
    choices,
    lists,
    injections,
    path_overrides,
    path_overrides,
    st.sampled_from(HYDRA),
    st.sampled_from(FLAGS),
    st.sampled_from(CONFS),
    hard(st.sampled_from(("trust", "+trust", "trust.0")), st.sampled_from(TRUST)),
    st.builds("~{}".format, keys),
    values,
)
SAMPLE = ("task=sample", "run=places/run", "output=out.npz")
RESUME = ("resume=places/run", "steps=3")
FULL = (
    "callback=[evaluate,log,samples,checkpoint,csv,tensorboard,progress,curves]",
    "metric=[moments]",
    "dataset=gaussians_8",
)
FULL += ("network=mlp_toy", "ema_halflife_images=10")
HOSTILE = ("--config-dir=places/hostile_confs",)
starts = st.sampled_from(
    ((), (), (), (), (), SAMPLE, RESUME, ("-m",), HOSTILE, FULL, FULL, ("dataset=gaussian", "network=mlp_gaussian"))
)
wild = st.lists(overrides, min_size=1, max_size=5)
# One error hides others: code that runs late is reached by changing one or two values at a time.
fine = st.sampled_from(("1", "2", "0.1", "0.5", "true", "false", "[]"))
deep = st.one_of(
    hard(scalars, fine),
    hard(scalars, fine),
    hard(scalars, st.sampled_from(EXTREMES)),
    hard(scalars, values),
    choices,
    lists,
    path_overrides,
    injections,
)
lines = st.builds(
    lambda start, some: [*start, *some], starts, st.one_of(wild, st.lists(deep, min_size=1, max_size=2, unique=True))
)

# The working directory ---------------------------------------------------------------------------------------------


class HangsError(BaseException):
    """The command took too long. A BaseException, so that the command does not catch it."""


GIT = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false"]
"""Reads the commit for run.json: the only program that the command may start."""


@dataclass
class Audit:
    """An audit hook that collects the processes started and the paths written while the command runs."""

    on: bool = False
    events: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on or (event == "subprocess.Popen" and list(arguments[1])[:4] == GIT):
            return
        if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pty.spawn"):
            self.events.append((event, str(arguments)[:200]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate"):
            self.events += [("write", os.fsdecode(path)) for path in arguments[:2] if isinstance(path, str | bytes)]
        elif event == "open" and isinstance(arguments[0], str | bytes):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                self.events.append(("write", os.fsdecode(arguments[0])))


AUDIT = Audit()
sys.addaudithook(AUDIT)


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str


class Sandbox:
    """A working directory with files and run folders of all kinds, inside folders that must not be written to."""

    def __init__(self, root: Path):
        self.root, self.work = root, root / "far/down/work"
        self.home, self.template = root / "home", root.with_name(root.name + "-template")
        self.work.mkdir(parents=True)
        for folder in (self.home, self.work.parent / "sibling"):
            folder.mkdir()
            (folder / "precious.txt").write_text("mine")
        os.chdir(self.work)
        made = self.type("run_dir=places/run", "dataset=gaussian", "network=mlp_gaussian", *SMALL)
        assert made.status == 0, made.stderr
        create_files(self.work)
        shutil.copytree(root, self.template, symlinks=True)
        self.before = self.snapshot()

    def type(self, *arguments: str) -> Outcome:
        """Run the command in this process."""
        GlobalHydra.instance().clear()
        claim_folder.cache_clear()
        stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")  # strict about encoding errors, as in a process
        stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
        sys.argv = ["gantrain", *arguments]
        status = 0
        AUDIT.events.clear()
        with redirect_stdout(stdout), redirect_stderr(stderr), limited(SECONDS):
            try:
                AUDIT.on = True
                main()
            except Stopped:  # raised by train_briefly(), in tasks that do not catch it
                pass
            except SystemExit as leaving:
                status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            finally:
                AUDIT.on = False
                os.environ.pop("HYDRA_FULL_ERROR", None)
        texts = []
        for stream in (stdout, stderr):
            stream.flush()
            texts.append(stream.detach().getvalue().decode())
        return Outcome(status, *texts)

    def snapshot(self) -> dict[Path, tuple[object, ...]]:
        found: dict[Path, tuple[object, ...]] = {}
        for folder, names, files in os.walk(self.root):
            found[Path(folder)] = ()
            for name in files + [name for name in names if Path(folder, name).is_symlink()]:
                about = Path(folder, name).lstat()
                found[Path(folder, name)] = (about.st_size, about.st_mtime_ns, about.st_ino)
        return found

    def changes(self) -> list[Path]:
        """Return the paths created, changed or removed since the last call, and restore the folder."""
        after = self.snapshot()
        changed = [path for path in {*self.before, *after} if self.before.get(path) != after.get(path)]
        if changed:
            shutil.rmtree(self.root)
            shutil.copytree(self.template, self.root, symlinks=True)
            os.chdir(self.work)
            self.before = self.snapshot()
        return changed

    def may_write(self, path: Path, arguments: Sequence[str]) -> bool:
        """Return whether the command line allows writing to the path."""
        for own in (self.work / "outputs", self.work / "data", *self.paths_named(arguments)):
            if path.is_relative_to(own) or own.is_relative_to(path):
                return True
        return False

    def paths_named(self, arguments: Sequence[str]) -> Iterator[Path]:
        """Yield the paths to which a command line allows writing."""
        for argument in arguments:
            if argument.lstrip("+~").partition("=")[0] not in PATH_KEYS:
                continue
            try:
                parsed = OverridesParser.create().parse_override(argument).value()
            except (OverrideParseException, ValueError):
                continue
            for value in parsed.list if isinstance(parsed, ChoiceSweep) else [parsed]:
                text = getattr(value, "text", str(value)).replace("${oc.env:HOME}", str(self.home))
                literal = text.partition("${")[0].partition("\x00")[0]
                path = Path(os.path.normpath(self.work / literal))
                yield path
                if "${" in text and not literal.endswith("/"):  # what is interpolated ends the name
                    yield from (p for p in self.work.glob("*") if str(p).startswith(str(path)) and literal)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise HangsError after this many seconds, and limit memory to 4 GB more than is in use."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise HangsError

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 4 * 10**9, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for number, handler in before.items():
            signal.signal(number, handler)


def create_files(work: Path) -> None:
    """Create files, and folders that are no runs, damaged runs or hostile runs."""
    places = work / "places"

    def write(name: str, content: str | bytes) -> None:
        path = places / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    run = {path.relative_to(places / "run"): path for path in (places / "run").rglob("*") if path.is_file()}

    def like_run(name: str) -> None:
        shutil.copytree(places / "run", places / name)

    write("file.txt", "text")
    (places / "empty").mkdir()
    write("broken/.hydra/config.yaml", "a: [1\nb: {")
    write("broken/.hydra/overrides.yaml", "- 'a\n")
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
    write("bomb/.hydra/config.yaml", bomb)
    write("bomb/.hydra/overrides.yaml", bomb)
    write("list/.hydra/config.yaml", "[1, 2]")
    write("list/.hydra/overrides.yaml", "{a: b}")
    write("binary/.hydra/config.yaml", bytes(range(256)))
    write("binary/.hydra/overrides.yaml", bytes(range(256)))
    write("deep/.hydra/config.yaml", "[" * 5000)
    write("deep/.hydra/overrides.yaml", "[" * 5000)
    write("half/run.json", "{")
    like_run("hostile")
    typed = [o for o in HYDRA if "'" not in o] + [
        "trust=[evil]",
        "loss={_target_: evil.Loss}",
        "run_dir=../sibling",
        "--config-dir=x",
        "-m",
    ]
    write("hostile/.hydra/overrides.yaml", "".join(f"- '{o}'\n" for o in typed))
    like_run("garbage")
    for name in run:
        if name.suffix == ".pt":
            write(f"garbage/{name}", b"garbage")
    like_run("edited")
    config = (places / "edited/.hydra/config.yaml").read_text()
    write("edited/.hydra/config.yaml", re.sub(r"_target_: gantrain.models.\S+", "_target_: os.system", config))
    write("edited/.hydra/overrides.yaml", "- loss={_target_:os.system,command:touch foreign}\n- trust=[os]\n- ~hydra\n")
    write("links/.hydra/config.yaml", config)
    write("links/.hydra/overrides.yaml", "[]")
    (places / "links/metrics.csv").symlink_to(work.parent / "sibling/precious.txt")
    (places / "links/gantrain.log").symlink_to(work.parent / "sibling/precious.txt")
    (places / "links/checkpoints").symlink_to(work.parent / "sibling")
    photos = places / "photos"
    photos.mkdir()
    for k in range(3):
        Image.fromarray(np.full((20, 20, 3), 80 * k, np.uint8)).save(photos / f"{k}.png")
    torch.save({"step": 7}, places / "alien.pt")
    write("evil.pickle", b"cos\nsystem\n(S'touch foreign'\ntR.")
    (work / "evil.py").write_text("import pathlib\npathlib.Path('foreign').touch()\nclass Loss: pass\n")
    write("confs/experiment/mine.yaml", "# @package _global_\nseed: 3\n")
    write("hostile_confs/experiment/mine.yaml", "# @package _global_\nseed: 3\n")
    hooks = "hydra: {callbacks: {x: {_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [foreign]}}}}"
    write("hostile_confs/experiment/hooks.yaml", f"# @package _global_\n{hooks}\n")
    write(
        "hostile_confs/experiment/folder.yaml",
        "# @package _global_\nhydra: {run: {dir: foreign}, output_subdir: foreign}\n",
    )
    write(
        "hostile_confs/experiment/logs.yaml",
        "# @package _global_\nhydra: {job_logging: {handlers: {x: {'()': os.mkdir, path: foreign}}}}\n",
    )
    write(
        "hostile_confs/experiment/launch.yaml",
        "# @package _global_\nhydra: {launcher: {x: {_target_: os.mkdir, path: foreign}}}\n",
    )
    write("hostile_confs/experiment/trusting.yaml", "# @package _global_\ntrust: [evil]\nloss: {_target_: evil.Loss}\n")
    write(
        "hostile_confs/experiment/mode.yaml",
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {hydra.output_subdir: foreign}}}\n",
    )
    write("hostile_confs/loss/evil.yaml", "_target_: evil.Loss\n")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("sandbox")
        patch.setenv("COLUMNS", "200")
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        patch.setenv("HOME", str(root / "home"))
        patch.setattr("gantrain.assemble.train", train_briefly)
        patch.setattr(sys, "argv", sys.argv)
        patch.chdir(root)
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        yield Sandbox(root)


def train_briefly(state, batches, latent, objective, *, steps, n_critic, **rest) -> None:
    """Train for at most two steps of two critic updates, then raise Stopped."""
    last = min(steps, state.step + 2)
    algorithm(state, batches, latent, objective, steps=last, n_critic=lambda step: min(2, n_critic(step)), **rest)
    if state.step < steps:
        raise Stopped


# What is checked ------------------------------------------------------------------------------------------------


def check_command(sandbox: Sandbox, drawn: Sequence[str]) -> Outcome:
    """Run a command line, and check its outcome and everything that it wrote."""
    taken = {argument.lstrip("+~").partition("=")[0] for argument in drawn}
    is_training = not ({"task", "resume"} & taken) and "--" not in drawn
    small = [o for o in SMALL if o.partition("=")[0] not in taken and not ("epochs" in taken and "steps" in o)]
    arguments = [*(small if is_training else ()), *drawn]
    environment, modules, path = dict(os.environ), {*sys.modules}, list(sys.path)
    try:
        outcome = sandbox.type(*arguments)
    except HangsError:
        pytest.fail(f"{drawn}: still running after {SECONDS} seconds")
    finally:
        cwd, sys.path[:] = Path.cwd(), path
        changes = sandbox.changes()
        imported = {name.split(".")[0] for name in {*sys.modules} - modules}
        for name in imported & {"evil", "places"}:
            del sys.modules[name]
    status, stderr = outcome.status, outcome.stderr
    assert status in (0, 2, 3), (status, stderr)
    assert status != 3 or "diverged" in stderr
    assert "Traceback" not in stderr + outcome.stdout
    assert not re.search(r"object at 0x|^[\w.]*(Error|Exception)\b|Warning: ", stderr, re.M), stderr
    if status == 2:
        assert re.search(r"^gantrain: \S+|^usage: ", stderr, re.M), stderr
    foreign = [path for path in changes if not sandbox.may_write(path, arguments)]
    trusts = any(argument.lstrip("+~").startswith("trust") for argument in drawn)
    assert trusts or not foreign, foreign
    assert trusts or not imported & {"evil", "places"}
    for event, what in AUDIT.events:
        assert trusts or event == "write", (event, what)
        where = Path(os.path.normpath(sandbox.work / what))
        elsewhere = what.startswith(("/dev/", "/proc/")) or "__pycache__" in what or where.is_relative_to(sandbox.root)
        elsewhere = elsewhere or what.startswith(f"{tempfile.gettempdir()}/gantrain-")  # decoded images
        assert elsewhere or sandbox.may_write(where, arguments), (event, what)
    assert dict(os.environ) == environment
    assert cwd == sandbox.work
    return outcome


FAILED_BEFORE = split("""
    ~callback=-1
    optimizer.betas._mode_=1
    callback.checkpoint=-1
    +loss={_target_:gantrain.losses.lsgan.Tensor}
    model.generator=7
    model.generator._target_={a: 1}
    allow=${seed}
    seed=${model}
    steps=${oc.env:HOME}
    ++callback.log._partial_=${run_folder:/x}
    checkpoint={a: 1}
    checkpoint=-1
    model.discriminator.width=1000000000000000000000000000000
    batch_size=1000000000
    --shell-completion
    --resolve
    --run --multirun
    --experimental-rerun=places/evil.pickle
    --config-path=places
    --config-name=experiment/toy
    +hydra.callbacks.x._target_=evil.Loss
    hydra.sweep.subdir=../../foreign -m
    hydra.job.chdir=true
    hydra/job_logging=default
    -m seed=range(0,1000000000)
    -m seed=range(0,1,1e-300)
    -m seed=range(0,10) batch_size=range(0,10000)
    --config-dir=places/hostile_confs experiment=hooks
    --config-dir=places/hostile_confs experiment=folder
    --config-dir=places/hostile_confs experiment=logs
    --config-dir=places/hostile_confs experiment=launch
    --config-dir=places/hostile_confs experiment=mode
    resume=places/hostile
    resume=places/edited
    resume=places/links
    resume=places/bomb
    resume=places/deep
    task=sample run=places/garbage output=out.npz
    task=sample run=places/edited output=out.npz
    task=sample run=places/bomb output=out.png
    task=sample run=places/run output=folder/
    task=sample run=places/run output=..
    task=sample run=places/run output=.npz
    task=evaluate run=places/run metric=[moments] output=out.json
    task=evaluate run=places/garbage metric=[moments]
    task=evaluate run=places/edited metric=[moments] checkpoints=all
    task=evaluate run=places/bomb metric=[moments]
    task=evaluate run=/dev/null metric=[moments]
    task=evaluate images=places/photos real=/dev/null metric=[sliced_wasserstein]
    task=evaluate images=places/run real=places/half metric=[sliced_wasserstein]
    task=evaluate images=/proc/self/mem dataset=digits metric=[sliced_wasserstein]
    init_from=places/alien.pt
    trust=[os] loss={_target_:os.system,command:exit}
    regularizer=[gradient_penalty] loss.x={_target_:os.system,command:exit}
""")
FAILED_BEFORE += (
    *(f"{key}={'1' + '0' * 400}" for key in ("seed", "batch_size", "checkpoint.keep", "num", "log_every")),
    "",
)
FAILED_BEFORE += (
    f"seed={'1' + '0' * 5000}",
    f"steps={'[' * 200}{']' * 200}",
    "loss=\udcff",
    "run_dir='a\udcffb'",
    "run_dir='a\x00b'",
)


@pytest.mark.parametrize("line", FAILED_BEFORE)
def test_command_lines_that_failed_before(sandbox: Sandbox, line: str) -> None:
    check_command(sandbox, line.split() or [line])


HOSTILE_LINES = [
    "batch_size=1000000000",
    "--experimental-rerun=places/evil.pickle",
    "+hydra.callbacks.x._target_=evil.Loss",
    "--config-dir=places/hostile_confs experiment=mode",
    "resume=places/edited",
]
assert {*HOSTILE_LINES} <= {*FAILED_BEFORE}


@pytest.mark.parametrize("line", HOSTILE_LINES)
def test_hostile_command_lines_end_with_a_message_in_a_separate_process(sandbox: Sandbox, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gantrain", *line.split()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.sub(r"^gantrain \S+: [\w-]+(?: \(the default.*\))?\n", "", done.stderr).startswith("gantrain: ")
    assert "Traceback" not in done.stderr
    assert not [path for path in sandbox.changes() if not sandbox.may_write(path, line.split())]


@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_random_command_lines_train_or_end_with_a_message(sandbox: Sandbox, shard: int) -> None:
    counts: dict[int, int] = {}

    @seed(shard)
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # failing command lines are short enough without shrinking
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=lines)
    def check_drawn(drawn: list[str]) -> None:
        outcome = check_command(sandbox, drawn)
        counts[outcome.status] = counts.get(outcome.status, 0) + 1

    check_drawn()
