import json, pytest, shutil, sys
from helpers.home import ROOT
from helpers.procs import *
def conf(home):
    return home.write_config((ROOT/"safe.toml").read_text().replace('"python3", "scripts/demo_robot.py"', f'"{sys.executable}", "{ROOT}/scripts/demo_robot.py"'))
def test_start(home, safe):
    conf(home)
    with safe.started("headless") as r:
        print(r)
        print(safe("status").out)
        print(safe("status", "--json").check().json())
@pytest.mark.pidns
def test_by_hand(home, safe):
    conf(home)
    with spawn(sys.executable, ROOT/"scripts/launch_robot.py", "--headless", cwd=ROOT) as c:
        c.wait_line("ready")
        print(safe("status"))
        r = safe("start", "--detach", "headless"); print(r); assert r.rc == 75
        r = safe("stop", "--force", "headless"); print(r)
        assert r.rc==0
        c.wait()
ESC = ROOT/"tests/helpers/escape_tree.py"
@pytest.mark.pidns
def test_escape(home, safe):
    home.write_config(f"""[targets.esc]
command = ["{sys.executable}", "{ESC}"]
stop = {{ grace = "2s" }}
""")
    r = safe("start","--detach","esc").check()
    wait_until(lambda: "members" in home.state_file("esc.log").read_text())
    v = safe("stop","--force","esc"); print(v)
    v.check()
    left=[str(p) for p in scan().values() if p.pid not in (1, os.getpid()) and not p.dead]
    assert not left
