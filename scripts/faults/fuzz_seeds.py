"""Valid inputs that mutations begin from, and the words that they put in."""

from __future__ import annotations

CONFIG: tuple[bytes, ...] = (
    b"""project = "robot"
[defaults]
restart = "on-failure"
env = { LANG = "C.UTF-8" }
[targets.headless]
command = ["python3", "robot.py", "--headless"]
instance = "sim"
cwd = "."
env_file = ".env"
match = "robot.py --headless"
backoff = { initial = "1s", factor = 2, max = "1m", jitter = 0.1 }
start_limit = { count = 5, window = "1m" }
stop = { signal = "SIGTERM", scope = "tree", grace = "10s" }
signals = { HUP = "USR1", WINCH = "" }
log = { size = "10M", keep = 5, compress = true, timestamps = true }
ready = { http = "http://127.0.0.1:8000/", status = "200-299,401", within = "30s" }
health = { tcp = "127.0.0.1:8000", interval = "5s", retries = 3, on_unhealthy = "restart" }
limits = { memory = "1G", cpu = { most = 90, for = "5s", action = "warn" }, max_runtime = "1h" }
notify = [{ on = ["failed"], command = ["mail", "me"], every = "1m" }]
sample = "2s"
admission = { cpu = 80, needs_memory = "1G" }
[targets.gui]
command = "python3 robot.py | tee log"
shell = true
instance = "sim"
depends_on = []
tty = false
lock_file = "~/.robot.lock"
pid_file = "run/robot.pid"
""",
    b'[targets.t]\ncommand = ["true"]\n',
    b'[targets."a b"]\ncommand = "sleep 1"\n[targets.u]\ncommand = "x"\ndepends_on = ["a b"]\n',
)

PLAN_JSON: tuple[bytes, ...] = (
    b"""{"id": "nightly", "description": "all", "resources": {"cpu": 2, "memory": "1G", "groq": 2}, "env": {"A": "b"},
"notify": [{"on": ["step_failed"], "command": ["mail-me"]}],
"steps": [{"id": "look", "command": ["python3", "look.py"], "type": "analysis", "provider": "groq"},
{"id": "build", "command": "make -j2 | tee log", "shell": true, "depends_on": ["look"], "timeout": "1m30s",
"retries": 2, "backoff": {"initial": "0.5s", "factor": 3}, "cwd": "sub", "inputs": ["src/**/*.c"],
"outputs": ["out/app"], "limits": {"memory": "512M"}, "resources": {"cpu": 1.5, "memory": "512M"}}]}""",
    b'{"id": "p", "steps": [{"id": "a", "command": ["true"]}, {"id": "b", "command": "x", "depends_on": ["a"]}]}',
)
PLAN_TOML: tuple[bytes, ...] = (
    b'id = "p"\nresources = { cpu = 2 }\n[[steps]]\nid = "a"\ncommand = ["true"]\n[[steps]]\nid = "b"\n'
    b'command = "x | y"\nshell = true\ndepends_on = ["a"]\ntimeout = "1m"\n',
)
PLAN_YAML: tuple[bytes, ...] = (
    b"id: p\nresources: {cpu: 2, groq: 1}\nsteps:\n- id: a\n  command: [echo, '1']\n- id: b\n  command: x | y\n"
    b"  shell: true\n  depends_on: [a]\n  timeout: 1m\n  env: &e {A: b}\n- {id: c, command: [y], env: *e}\n",
    b"id: p\nsteps: &s\n- {id: a, command: &c [true]}\n- id: b\n  command: *c\n  <<: {retries: 1}\n",
)
ENV: tuple[bytes, ...] = (
    b'A=b\nexport C=\'d e\' # note\nE="f\\n\\t\\"\\\\\\$"\n\n# note\nG=\nH = i#j # k\n',
    b"\xef\xbb\xbfA=b\r\nB=c\r\n",
)
PROCFILE: tuple[bytes, ...] = (
    b"web: bundle exec rails server -p $PORT\nworker: A=b env C=d sh -c 'x | y'\n# note\nclock: ./clock \\\n --x\n",
)
SUPERVISORD: tuple[bytes, ...] = (
    b"""[supervisord]
logfile=/tmp/s.log
environment=A="b",C='d'
[program:web]
command=/usr/bin/web --port %(ENV_PORT)s -n %(process_num)02d
process_name=%(program_name)s_%(process_num)02d
numprocs=2
directory=/srv
autorestart=unexpected
exitcodes=0,2
startsecs=5
startretries=3
stopsignal=INT
stopwaitsecs=10
stdout_logfile_maxbytes=50MB
environment=KEY="v,al",X=%(here)s
[group:all]
programs=web
[include]
files=conf.d/*.conf
""",
)
UNIT: tuple[bytes, ...] = (
    b"""[Unit]
Description=A thing
After=network.target
[Service]
Type=notify
Environment="A=b c" D=e
EnvironmentFile=-/nowhere/env
ExecStartPre=-/bin/mkdir -p %t/x
ExecStart=@/usr/bin/thing thing --flag $A ${D} "quo ted" %n \\
  more
ExecStop=/bin/kill -INT $MAINPID
Restart=on-failure
RestartSec=5min 20s
TimeoutStopSec=90
KillSignal=SIGINT
KillMode=mixed
MemoryMax=1G
CPUQuota=50%
LimitNOFILE=1024:2048
WatchdogSec=30s
User=nobody
[Install]
WantedBy=multi-user.target
""",
)


class LINES:
    """Words by kind of input."""

    CONFIG = (
        b"[targets.x]\n", b"command = ", b"'", b'"', b'"""', b"\\u0000", b"\\ud800", b"\\U0010ffff", b"1e999", b"nan",
        b"inf", b"-1", b"0", b"99999999999999999999", b"true", b"[", b"]", b"{", b"}", b"[[", b"=", b".", b"# x\n",
        b"1979-05-27T07:32:00Z", b"depends_on = ['t']", b"instance = '../x'", b"\xff", b"\0", b"\r\n", b"..", b"/",
        b"shell = true", b"tty = true", b"ready.log = 'x'", b"health.http = ", b"limits.memory = ", b"match = '*'",
        b"SIGRTMIN+3", b"http://[::1", b"10M", b"1h30m", b"~nobody/x", b"lock_file = 'a'", b"pid_file = 'a'",
    )  # fmt: skip
    PLAN = (
        b'"id"', b'"steps"', b'"command"', b'"depends_on"', b"[", b"]", b"{", b"}", b",", b":", b'"', b"NaN", b"1e999",
        b"Infinity", b"-0", b"null", b"true", b"\\ud800", b"\\u0000", b"9" * 400, b"*a", b"&a ", b"<<: *a",
        b"!!python/", b"!!binary ", b"!!set ", b"? ",
        b"- ", b"\n", b"---\n", b"...", b"%YAML 1.1\n", b"0x1F", b"1:30", b"2001-13-99",
        b"[[steps]]\n", b"\xff", b"\0", b"\t", b"[" * 50, b"cpu", b"timeout", b"1h", b"shell", b"retries",
    )  # fmt: skip
    ENV = (b"'", b'"', b"\\", b"#", b"=", b"export ", b"\n", b"\r", b"\0", b"$", b" ", b"\xff", b"\xc2\x85", b"A=")
    SHELL = (
        b"'", b'"', b"\\", b"\n", b"$", b"${", b"%(", b")s", b"%", b"[program:", b"]", b"=", b";", b"#", b"|", b"&&",
        b"\xff", b"\0", b"*", b"%(ENV_HOME)s", b"numprocs=999999999", b"[include]\nfiles=", b"../*", b",", b"0", b"-1",
    )  # fmt: skip
    UNIT = (
        b"[Service]\n", b"ExecStart=", b"\\x", b"\\u", b"\\777", b"%", b"%%", b"%i", b"${", b"$$", b"'", b'"', b"\\\n",
        b"-", b"@", b"+", b"!!", b";", b" ; ", b"infinity", b"9" * 30, b"1y 1us", b"#", b"\0", b"\xff", b"=", b"Type=",
    )  # fmt: skip
    AMOUNTS = (b"e", b".", b"-", b"+", b" ", b"9" * 40, b"nan", b"inf", b"ms", b"w", b"GiB", b"0x", b"_", "٣".encode())
    WORDS = (
        b"--", b"\n", b"-", b"--help", b"--config", b"=", b"--json", b"--grace", b"1s", b"-1", b"start", b"stop",
        b"exec", b"run", b"status", b"--no-color", b"--version", b"-h", b"", b"''", b"\xff", b"\x1b[31m", b"..",
        b"/", b"mission",
        b"history", b"logs", b"--lines", b"9" * 30, b"export", b"systemd", b"completion", b"bash", b"init", b"--print",
    )  # fmt: skip
    ARGV = (
        b"start\nheadless\n--detach", b"start\nx\n--\nsleep\n1", b"stop\n--force\n--grace\n2s\na\nb", b"exec\n--\nmake",
        b"--config\nx.toml\nstatus\n--json", b"run\nplan.json\n--resume", b"logs\n-f\nt\n--lines\n5", b"help\nstop",
        b"export\nsystemd\nt\n--user", b"mission\nx.py\n--require\nnumpy\n--\n--fast", b"dashboard\n--port\n0",
    )  # fmt: skip
    LOOKING = (
        b"status --json", b"status t", b"help stop", b"logs t --lines 3", b"completion bash", b"export cron t",
        b"history t", b"status t --no-color", b"logs", b"history --since 1h",
    )  # fmt: skip
