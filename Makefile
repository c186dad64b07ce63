# make setup   the virtual environment .venv with everything in it; test, demo and lint do this by themselves (PYTHON=... picks a Python)
# make test    the tests                                      (ARGS="-k schedule" passes options to pytest)
# make demo    the node on a generated drive; VIDEO=file, BAG=folder or FRAMES=folder RATE=hz for a recording of yours
# make lint    ruff and mypy
# make clean   removes what the above made

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# One stamp for each kind of environment: sourcing another ROS 2 sets up anew.
READY := $(VENV)/ready.$(or $(ROS_DISTRO),wheels)
SETUP_FILES := constraints.txt setup.py setup.cfg $(wildcard tools/*.py tools/*.sh tools/vision_msgs/*.xml tools/vision_msgs/msg/*.msg)

# A make started from another environment's ROS wheels must not find that environment's libraries.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif

export VIDEO BAG FRAMES RATE
OUT ?= out
export OUT

.PHONY: setup test demo lint clean

setup: $(READY)

$(READY): $(SETUP_FILES)
	@rm -f $(VENV)/ready.*
	@tools/set_up.sh
	@touch $@

test: setup
	$(VENV_PYTHON) -m pytest $(ARGS)

demo: setup
	@$(VENV_PYTHON) -m dff_ros.node.demo $${VIDEO:+--video "$$VIDEO"} $${BAG:+--bag "$$BAG"} \
	    $${FRAMES:+--frames "$$FRAMES"} $${RATE:+--rate "$$RATE"} --out "$$OUT" $(ARGS)

lint: setup
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy

clean:
	rm -rf $(VENV) out build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
