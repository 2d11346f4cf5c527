"""An emulated Jetson board: sysfs tree, power model with a known truth, real jtop service.

README.md says how to use it. Needs Python only; the jtop service needs root and jetson-stats.
"""
