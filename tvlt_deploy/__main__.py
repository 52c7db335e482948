"""`python -m tvlt_deploy` is `tvlt-deploy`."""

from tvlt_deploy.cli import main

main(prog_name="tvlt-deploy")
