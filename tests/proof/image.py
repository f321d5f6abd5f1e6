"""Carries the Dockerfile out in clean roots, where no Docker is, and runs what comes of it: `make image-proof`.

    python -m tests.proof.image --folder var/image-proof

Builds the stages that `production` is made of from the instructions of `deploy/docker/Dockerfile` as they stand (RUN in
a chroot, COPY, ENV, USER …), then starts the production root as its user says, its root read-only, in namespaces of its
own, and asks the engine in it with `longwave smoke`. Writes `report.json` into the folder; 0 when all held.

It needs root, debootstrap and the network. What it cannot have is approximated: for `python:3.11-*` a minimal
Debian 12 with Debian's Python 3.11, for `rust:*` the Rust of this machine. So it proves the instructions, what they
leave out and who may write where; not the base images, and no layer, manifest or registry.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.proof.dockerfile import DockerfileError, Stage, assignments, parse, words
from tests.server.test_listener import Authority

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "deploy" / "docker" / "Dockerfile"
SUITE: Final = "bookworm"
# What the official images hold beyond a minimal Debian, as far as the stages use it.
PACKAGES: Final = {
    "python:3.11-bookworm": ("python3.11", "python3.11-venv", "gcc", "libc6-dev", "make", "git"),
    "python:3.11-slim-bookworm": ("python3.11",),
}
RUST: Final = "rust:"
ROOTS_ENV: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
# No program that builds or fetches belongs into production; dpkg and apt are the base image's own.
NOT_IN_PRODUCTION: Final = ("cc", "gcc", "g++", "make", "cargo", "rustc", "git", "pip", "pip3", "curl", "wget")
READY_S: Final = 60.0
STOP_S: Final = 30.0
CARRIER_KEY: Final = "KEYproof"


@dataclass(slots=True)
class Built:
    """A root that a stage left behind, and what its instructions say of running it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"


def say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(f"image-proof: {text}\n")
    sys.stderr.flush()


def run(command: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end. Raises CalledProcessError."""
    return subprocess.run(command, check=True, **more)


class Builder:
    """Makes roots below a folder, each stage once."""

    def __init__(self, folder: Path, stages: Mapping[str, Stage]) -> None:
        """Make nothing yet."""
        self._folder = folder
        self._stages = stages
        self._built: dict[str, Built] = {}

    def stage(self, name: str) -> Built:
        """The root of a stage, built from its base."""
        if name not in self._built:
            stage = self._stages[name]
            root = self._folder / "stages" / name
            if stage.base in self._stages:
                base = self.stage(stage.base)
                made = Built(root, dict(base.env), base.workdir, base.user)
                _copy(base.root, root)
            else:
                made = Built(root, dict(ROOTS_ENV))
                _copy(self._base(stage.base), root)
            say(f"stage {name}")
            for instruction in stage.instructions:
                self._carry_out(made, instruction.name, instruction)
            self._built[name] = made
        return self._built[name]

    def _base(self, image: str) -> Path:
        root = self._folder / "bases" / image.replace(":", "-")
        if root.exists():
            return root
        say(f"base {image}, approximated")
        partial = root.with_name(f"{root.name}.part")
        run(["rm", "-rf", "--one-file-system", partial])
        if image.startswith(RUST):
            _rust_of_this_machine(partial)
        else:
            _copy(self._debian(), partial)
            packages = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES[image]]
            for command in (["apt-get", "update"], packages, ["apt-get", "clean"]):
                chrooted(Built(partial, ROOTS_ENV | {"DEBIAN_FRONTEND": "noninteractive"}), command)
            for link in ("python", "python3", "python3.11"):
                (partial / "usr/local/bin" / link).symlink_to("/usr/bin/python3.11")
        partial.rename(root)
        return root

    def _debian(self) -> Path:
        root = self._folder / "bases" / "debian"
        if not root.exists():
            partial = root.with_name(f"{root.name}.part")
            run(["rm", "-rf", "--one-file-system", partial])
            run(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, partial], stdout=sys.stderr)
            for name in LENT:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).touch()
            partial.rename(root)
        return root

    def _carry_out(self, made: Built, name: str, instruction: Any) -> None:
        match name:
            case "RUN":
                chrooted(made, ["/bin/sh", "-c", instruction.text])
            case "COPY":
                self._copy_into(made, instruction)
            case "ENV":
                made.env |= assignments(instruction, made.env)
            case "WORKDIR":
                made.workdir = instruction.text
                (made.root / made.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                made.user = instruction.text
            case "VOLUME":
                made.volumes = words(instruction)
            case "ENTRYPOINT":
                made.entrypoint, made.command = words(instruction), []
            case "CMD":
                made.command = words(instruction)
            case "HEALTHCHECK":
                made.healthcheck = words(instruction)
            case "STOPSIGNAL":
                made.stop_signal = instruction.text
            case "LABEL" | "EXPOSE":
                pass  # words for whoever reads the image; they change nothing in it
            case _:
                raise DockerfileError(f"line {instruction.line}: {name} cannot be carried out here")

    def _copy_into(self, made: Built, instruction: Any) -> None:
        *sources, target = instruction.text.split()
        whence = self._folder / "context"
        if sources[0].startswith("--from="):
            whence = self.stage(sources.pop(0).removeprefix("--from=")).root
        elif sources[0].startswith("--"):
            raise DockerfileError(f"line {instruction.line}: {sources[0]} cannot be carried out here")
        to = Path(target) if target.startswith("/") else Path(made.workdir) / target
        into = made.root / str(to).lstrip("/")
        for source in sources:
            found = whence / source.lstrip("/")
            if found.is_dir():
                _copy(found, into)
            else:
                put = into / found.name if target.endswith("/") else into
                put.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, put)


def _copy(source: Path, target: Path) -> None:
    """The content of a folder, owners and links as they are."""
    target.mkdir(parents=True, exist_ok=True)
    run(["cp", "--archive", "--reflink=auto", f"{source}/.", target])


def _rust_of_this_machine(root: Path) -> None:
    rustup = Path(os.environ.get("RUSTUP_HOME", Path.home() / ".rustup"))
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    _copy(rustup, root / "usr/local/rustup")
    _copy(cargo / "bin", root / "usr/local/cargo/bin")


def context(folder: Path) -> None:
    """What the builder would be sent, as far as .dockerignore allows: the files that git knows, and new ones."""
    target = folder / "context"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True)
    allowed = {line.removeprefix("!").rstrip("/") for line in _ignore_lines() if line.startswith("!")}
    denied = [line for line in _ignore_lines() if "/" in line.rstrip("/") and not line.startswith(("!", "**"))]
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.partition("/")[0] in allowed and not any(name.startswith(f"{prefix}/") for prefix in denied):
            put = target / name
            put.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_file():
                shutil.copy2(ROOT / name, put)


def _ignore_lines() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# What a RUN needs of this machine to reach the network. It lies over the root's own files while the command runs, in a
# namespace of its own, and goes with it: nothing of it is left in the root, and no mount can outlive the run.
LENT: Final = ("etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")
ENTER: Final = """
root="$1"; user="$2"; folder="$3"; shift 3
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
for file in $LENT; do
  if [ -f "/$file" ]; then
    if [ -e "$root/$file" ]; then mount --bind "/$file" "$root/$file"; else echo "$file is not in the base" >&2; fi
  fi
done
exec chroot --userspec="$user" "$root" /usr/bin/env -C "$folder" "$@"
"""


def chrooted(made: Built, command: Sequence[str]) -> None:
    """Run a command as the stage's instructions say. Raises CalledProcessError."""
    env = made.env | {"HOME": "/root", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "LENT": " ".join(LENT)}
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    run(
        [*own, "/bin/sh", "-euc", ENTER, "enter", made.root, made.user, made.workdir, *command],
        env=env,
        stdout=sys.stderr,
    )


# ------------------------------------------------------------------------------------------------- the production root


class Container:
    """The production root with its root read-only, as an unprivileged user, seen from inside its namespaces."""

    def __init__(self, made: Built, scratch: Path) -> None:
        """Mount what a container would have; the namespace takes it away again."""
        self.made = made
        self._scratch = scratch
        root = made.root
        run(["mount", "--bind", root, root])
        run(["mount", "-t", "proc", "proc", root / "proc"])
        run(["mount", "--bind", "/dev", root / "dev"])
        uid, _, gid = made.user.partition(":")
        for volume in made.volumes:
            place = root / volume.lstrip("/")
            run(["mount", "-t", "tmpfs", "-o", f"size=256m,uid={uid},gid={gid},mode=0750", "tmpfs", place])
        run(["mount", "-o", "remount,bind,ro", root])
        run(["ip", "link", "set", "lo", "up"])

    def start(self, command: Sequence[str], env: Mapping[str, str], log: str) -> subprocess.Popen[bytes]:
        """A program in it, without privileges, which it cannot get back."""
        with (self._scratch / log).open("wb") as output:
            return subprocess.Popen(self._command(command), env=self.made.env | dict(env), stdout=output, stderr=output)

    def ask(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
        """A program in it, to its end."""
        return subprocess.run(self._command(command), env=self.made.env | dict(env), capture_output=True, check=False)

    def _command(self, command: Sequence[str]) -> list[str]:
        uid, _, gid = self.made.user.partition(":")
        taken = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={gid}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        inside = ["/usr/sbin/chroot", str(self.made.root), "/usr/bin/env", "-C", self.made.workdir]
        # chroot needs root, so privileges go behind it: util-linux is essential in Debian, setpriv with it.
        return [*inside, *taken, *command]


def prove(made: Built, scratch: Path) -> dict[str, Any]:
    """Start it, ask it, stop it; what was found. Raises AssertionError with what did not hold."""
    authority = Authority()
    key, certificate = authority.issue("localhost")
    # As a mounted Secret would be: before the root is made read-only, owned by root, read through its mode.
    tls = made.root / "etc/longwave"
    tls.mkdir(exist_ok=True)
    for name, content in {"tls.key": key, "tls.crt": certificate, "ca.crt": authority.pem}.items():
        (tls / name).write_bytes(content)
        (tls / name).chmod(0o644)
    # A container's platform writes it.
    (made.root / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")
    box = Container(made, scratch)
    carrier = box.start(
        [*made.entrypoint, "simulate-carrier", "--port", "8090", "--api-key", CARRIER_KEY], {}, "carrier"
    )
    engine: subprocess.Popen[bytes] | None = None
    try:
        settings = {
            "LONGWAVE_GRPC_TLS_CERT_FILE": "/etc/longwave/tls.crt",
            "LONGWAVE_GRPC_TLS_KEY_FILE": "/etc/longwave/tls.key",
            "LONGWAVE_WEBHOOK_BASE_URL": "http://127.0.0.1:8081",
            "LONGWAVE_TELNYX_BASE_URL": "http://127.0.0.1:8090/v2",
            "LONGWAVE_TELNYX_API_KEY": CARRIER_KEY,
            "LONGWAVE_TELNYX_PUBLIC_KEY": json.loads(_first_line(scratch / "carrier", carrier))["public_key"],
        }
        admin = json.loads(_ok(box.ask([*made.entrypoint, "bootstrap", "--json"], settings)))["api_key"]
        engine = box.start([*made.entrypoint, *made.command], settings, "engine")
        began_at = time.monotonic()
        while box.ask(made.healthcheck, {}).returncode:
            assert engine.poll() is None, (scratch / "engine").read_text()
            assert time.monotonic() - began_at < READY_S, (scratch / "engine").read_text()
        healthy_s = time.monotonic() - began_at
        tenant_key = _registry(box, admin)
        smoke = box.ask(
            [
                *_longwave(made),
                "smoke",
                "--campaign",
                "notices",
                "--to",
                "+12025550123",
                "--ops",
                "http://127.0.0.1:8080",
                "--json",
            ],
            {"LONGWAVE_API_KEY": tenant_key},
        )
        written = _written(made)
        engine.send_signal(signal.Signals[made.stop_signal])
        code = engine.wait(STOP_S)
        return {
            "healthy_after_s": round(healthy_s, 1),
            "smoke": json.loads(smoke.stdout),
            "exit_code_after_stop": code,
            "writes_to": written,
            "unwritable": _unwritable(box),
        }
    finally:
        for process in (engine, carrier):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def _longwave(made: Built) -> list[str]:
    return [*made.entrypoint, "--address", "localhost:50051", "--ca-file", "/etc/longwave/ca.crt"]


def _registry(box: Container, admin: str) -> str:
    """A tenant with a campaign and a number, made by the command line in the image; the tenant's key."""
    base = _longwave(box.made)
    env = {"LONGWAVE_API_KEY": admin}
    for command in (
        ["tenant", "create", "acme"],
        ["brand", "create", "acme", "--tenant", "acme", "--name", "Acme", "--ein", "12-3456789"],
        ["campaign", "create", "notices", "--tenant", "acme", "--brand", "acme", "--use-case", "MIXED"],
        ["number", "create", "+12025550100", "--tenant", "acme", "--campaign", "notices"],
    ):
        _ok(box.ask([*base, *command], env))
    made = json.loads(_ok(box.ask([*base, "key", "create", "--tenant", "acme", "--json"], env)))
    return str(made["secret"])


def _ok(done: subprocess.CompletedProcess[bytes]) -> bytes:
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def _first_line(log: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + READY_S
    while b"\n" not in (said := log.read_bytes()):
        assert process.poll() is None, said.decode(errors="replace")
        assert time.monotonic() < until, "it says nothing"
        time.sleep(0.05)
    return said.decode().splitlines()[0]


def _written(made: Built) -> list[str]:
    """Folders of the volumes that hold something now; the rest of the root is read-only, so nothing else can."""
    return [volume for volume in made.volumes if any((made.root / volume.lstrip("/")).iterdir())]


def _unwritable(box: Container) -> list[str]:
    """Places where a write by the image's user fails, as it must."""
    places = ["/", "/etc", "/opt/longwave", "/usr", "/tmp"]  # noqa: S108 - none is written
    return [place for place in places if box.ask(["/usr/bin/touch", f"{place}/probe"], {}).returncode]


# ---------------------------------------------------------------------------------------------------------- report


def inventory(made: Built) -> dict[str, Any]:
    """What is in the production root: how large, and that nothing in it builds."""
    folders = made.env["PATH"].split(":")
    present = [
        name for name in NOT_IN_PRODUCTION for folder in folders if (made.root / folder.lstrip("/") / name).exists()
    ]
    setuid = run(["find", made.root / "opt", "-perm", "/6000"], capture_output=True).stdout.decode().split()
    return {
        "own_mib": _mib(made.root / "opt/longwave"),
        "root_mib": _mib(made.root),
        "largest_mib": dict(
            sorted(
                ((path.name, _mib(path)) for path in _packages(made).iterdir() if path.is_dir()),
                key=lambda pair: -pair[1],
            )[:8]
        ),
        "build_tools": present,
        "setuid": setuid,
        "user": made.user,
    }


def _packages(made: Built) -> Path:
    return made.root / "opt/longwave/lib/python3.11/site-packages"


def _mib(path: Path) -> float:
    kib = run(["du", "--summarize", "--one-file-system", "-k", path], capture_output=True).stdout.split()[0]
    return round(int(kib) / 1024, 1)


def verdicts(report: Mapping[str, Any]) -> dict[str, bool]:
    """What had to hold."""
    ran, image = report["run"], report["image"]
    return {
        "user 1001": image["user"] == "1001:1001",
        "nothing in it builds or fetches": not image["build_tools"],
        "no set-uid file of ours": not image["setuid"],
        "smoke": ran["smoke"]["ok"],
        "stops with 0": ran["exit_code_after_stop"] == 0,
        "only the volume is written to": ran["writes_to"] == ["/var/lib/longwave"] and len(ran["unwritable"]) == 5,
    }


def build(folder: Path) -> Built:
    """The production root from the Dockerfile."""
    run(["rm", "-rf", "--one-file-system", folder / "stages"])
    context(folder)
    return Builder(folder, parse(DOCKERFILE.read_text(encoding="utf-8"))).stage("production")


def main() -> int:
    """Build, then prove in namespaces of its own; 0 when all held."""
    parser = argparse.ArgumentParser(description="The Dockerfile in clean roots.")
    parser.add_argument("--folder", type=Path, default=Path("var/image-proof"), help="roots and the report")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    state = folder / "built.json"
    if options.inside:
        saved = json.loads(state.read_text(encoding="utf-8"))
        made = Built(**(saved | {"root": Path(saved["root"])}))
        (folder / "run.json").write_text(json.dumps(prove(made, folder)), encoding="utf-8")
        return 0
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        say("root and debootstrap are needed; on Debian 12: apt-get install debootstrap")
        return 2
    began_at = time.monotonic()
    made = build(folder)
    image = inventory(made)
    saved = {name: getattr(made, name) for name in made.__dataclass_fields__} | {"root": str(made.root)}
    state.write_text(json.dumps(saved), encoding="utf-8")
    own = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]
    inside = [sys.executable, "-m", "tests.proof.image", "--folder", str(folder), "--inside"]
    with suppress(FileNotFoundError):
        (folder / "run.json").unlink()
    done = subprocess.run([*own, *inside], cwd=ROOT, check=False)
    if done.returncode:
        return 1
    report: dict[str, Any] = {"image": image, "run": json.loads((folder / "run.json").read_text(encoding="utf-8"))}
    report["held"] = verdicts(report)
    report["seconds"] = round(time.monotonic() - began_at)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if all(report["held"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
