# Thin wrappers: on Windows call the scripts themselves.
PYTHON ?= python3

.PHONY: demo test serve bench-motion bench-step

demo:
	$(PYTHON) scripts/demo.py $(if $(CLIP),--clip "$(CLIP)")

test:
	$(PYTHON) scripts/harness.py test

serve:
	$(PYTHON) scripts/harness.py serve

bench-motion:
	$(PYTHON) scripts/harness.py run benchmarks/motion.py $(OPTIONS)

bench-step:
	$(PYTHON) scripts/harness.py run benchmarks/step.py $(if $(BACKBONE),--backbone $(BACKBONE))
