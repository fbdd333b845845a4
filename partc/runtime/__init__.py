"""What a bundle ships: runs a half's segments and speaks to the other half.

Imports numpy, grpcio and tvm_ffi only, none of partc's other packages, and what encodes tensors on
their way once a plan needs it.
"""

import os

# gRPC reads this when it is imported; what goes wrong is said by the errors of this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
