"""The command line, one file for each group of commands."""

import os

# Read by gRPC when it is first imported: what matters of a connection comes as an exception, and its notes about peers
# that restart would stand between our lines.
# Nor its errors: whoever calls could write as many of them as it likes. To see them: GRPC_VERBOSITY=ERROR.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
