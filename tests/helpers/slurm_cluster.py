"""A real Slurm on this machine for tests: one node with two GPUs that are device files only.

Partitions, account, features and cards have the names of the commented lines of profiles/slurm/profile.yaml.

Needs root, and Debian's packages slurm-wlm and munge; with accounting also slurmdbd and mariadb-server. All files are
in the folder of the cluster, but for links in /etc/slurm: the commands that run within a job find no other place.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ETC = Path("/etc/slurm")
DAEMONS = ("munged", "slurmctld", "slurmd")
OF_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")
GPUS, MEMORY_MB = 2, 32000
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=500000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MinJobAge=300
KillWait=3
SlurmctldTimeout=30
SlurmdTimeout=30
GresTypes=gpu
AccountingStorageType={storage}
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:a100:{gpus} Feature=rack1,rack2
PartitionName=batch Nodes={host} Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=gpu Nodes={host} MaxTime=1-00:00:00 State=UP
"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_tests
"""
GRANT = """
create database if not exists slurm_tests;
create or replace user slurm@localhost identified by 'slurm';
create or replace user slurm@127.0.0.1 identified by 'slurm';
grant all on slurm_tests.* to slurm@localhost;
grant all on slurm_tests.* to slurm@127.0.0.1;
"""


def obstacle(accounting: bool) -> str | None:
    """Why no Slurm can be started here; None if it can."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return "starting Slurm needs root"
    needed = (*DAEMONS, *OF_ACCOUNTING * accounting)
    if missing := [name for name in needed if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]:
        packages = "slurm-wlm munge" + " slurmdbd mariadb-server" * accounting
        return f"{', '.join(missing)} not found; on Debian: apt-get install {packages}"
    if (conf := ETC / "slurm.conf").exists() and not is_ours(conf):
        return f"{conf} is there: this machine belongs to another Slurm"
    return None


def is_ours(path: Path) -> bool:
    """Whether a file of /etc/slurm is a link that an earlier run of the tests left."""
    return (
        path.is_symlink()
        and path.readlink().name == path.name
        and path.readlink().parent.name == "slurm-tests"
    )


class Cluster:
    """The daemons of one Slurm. `folder` must be called slurm-tests."""

    def __init__(self, folder: Path, accounting: bool, cores: int = 2):
        self.folder, self.accounting, self.cores = folder, accounting, cores
        self.host = socket.gethostname().partition(".")[0]
        self.running: list[subprocess.Popen] = []
        self.links: list[Path] = []

    def start(self) -> None:
        """Start the daemons, and wait until the node takes jobs. Raises RuntimeError with the logs.

        Two of these would have the same ports and links: the second waits for the end of the first.
        """
        import fcntl  # not on every system

        self.alone = (Path(tempfile.gettempdir()) / "slimdiff-slurm-tests.lock").open("w")
        fcntl.flock(self.alone, fcntl.LOCK_EX)
        for name in ("state", "spool", "munge", "mysql"):
            (self.folder / name).mkdir(parents=True)
        # Daemons with users of their own have to reach their folders.
        for place in (self.folder, *self.folder.parents[:-2]):
            place.chmod(place.stat().st_mode | 0o011)
        self._write_configuration()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        for path in (key.parent, key):
            shutil.chown(path, "munge", "munge")
        key.chmod(0o400)
        key.parent.chmod(0o755)
        options = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        munge = [f"--{name}={key.parent / name.removesuffix('-file')}" for name in options]
        self._daemon("munged", "--foreground", *munge, user="munge")
        self._wait("munged", "munge", "-n", "-S", str(key.parent / "socket"))
        if self.accounting:
            self._start_accounting()
        self._daemon("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self._daemon("slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", self.host)
        self._wait("the node", "sh", "-c", "sinfo -h -o %T | grep -q idle")

    def _write_configuration(self) -> None:
        socket_file = self.folder / "munge" / "socket"
        # A job with another account or quality of service is refused.
        of_database = {"Host": "127.0.0.1", "Port": 16819, "Pass": socket_file, "Enforce": "associations,qos"}
        database = "\n".join(f"AccountingStorage{key}={value}" for key, value in of_database.items())
        values = {
            "host": self.host,
            "folder": self.folder,
            "storage": f"accounting_storage/{'slurmdbd' if self.accounting else 'none'}",
            "accounting": database if self.accounting else "",
            "cores": self.cores,
            "memory": MEMORY_MB,
            "gpus": GPUS,
        }
        devices = [self.folder / f"gpu{number}" for number in range(GPUS)]
        for device in devices:
            # The numbers of /dev/null: a card for Slurm, which looks at the kind of the file only.
            os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))
        written = {
            "slurm.conf": CONF.format(**values),
            "gres.conf": "\n".join(
                f"NodeName={self.host} Name=gpu Type=a100 File={path}" for path in devices
            ),
            "cgroup.conf": "CgroupAutomount=no",
        }
        if self.accounting:
            written["slurmdbd.conf"] = DATABASE.format(**values)
        ETC.mkdir(exist_ok=True)
        for name, text in written.items():
            path, link = self.folder / name, ETC / name
            path.write_text(text.strip() + "\n")
            path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)
            if is_ours(link):
                link.unlink()
            link.symlink_to(path)
            self.links.append(link)

    def _start_accounting(self) -> None:
        data, socket_file = self.folder / "mysql", self.folder / "mysql" / "socket"
        shutil.chown(data, "mysql", "mysql")
        made = self.run(
            *("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}"),
            "--auth-root-authentication-method=normal",
        )
        if made.returncode:
            raise RuntimeError(made.stdout + made.stderr)
        self._daemon(
            *("mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket_file}", "--port=13306"),
            *("--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M", "--user=mysql"),
        )
        client = ("mariadb", "--no-defaults", "-uroot", "-S", str(socket_file), "-e")
        self._wait("MariaDB", *client, "select 1")
        self._wait("the database", *client, GRANT)
        self._daemon("slurmdbd", "-D")
        self._wait("slurmdbd", "sacctmgr", "-n", "list", "cluster")
        for words in ("add cluster tests", "add account lab", "add user root account=lab", "add qos gpu"):
            self.run("sacctmgr", "-i", *words.split())
        self.run("sacctmgr", "-i", "modify", "user", "root", "set", "qos=normal,gpu")

    def _daemon(self, name: str, *arguments: str, user: str | None = None) -> None:
        program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        with (self.folder / f"{name}.out").open("wb") as out:
            self.running.append(
                subprocess.Popen(
                    [program, *arguments], stdout=out, stderr=out, start_new_session=True, user=user
                )
            )

    def _wait(self, what: str, *command: str) -> None:
        end = time.monotonic() + 60
        while (done := self.run(*command)).returncode:
            if time.monotonic() > end:
                logs = "".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out"))
                raise RuntimeError(f"{what} did not start: {done.stderr}\n{logs}")
            time.sleep(0.2)

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        done = self.run("scontrol", "show", "job", job)
        assert done.returncode == 0, done.stderr
        return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command of Slurm."""
        return subprocess.run(command, capture_output=True, text=True)

    def jobs(self) -> list[dict[str, str]]:
        """Jobs of the queue, ended ones included; the comment names rule and wildcards."""
        names = {"id": "%i", "state": "%T", "comment": "%k", "memory": "%m", "cores": "%C", "folder": "%Z"}
        done = self.run("squeue", "--states=all", "--noheader", "--format=" + "|".join(names.values()))
        assert done.returncode == 0, done.stderr
        return [dict(zip(names, line.split("|"), strict=True)) for line in done.stdout.splitlines()]

    def stop(self) -> None:
        """End jobs and daemons, and remove the links."""
        self.run("scancel", "--user=root", "--signal=KILL", "--full")
        self.run("scancel", "--user=root")
        for daemon in reversed(self.running):
            daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()
        for link in self.links:
            if is_ours(link):
                link.unlink()
        self.alone.close()
