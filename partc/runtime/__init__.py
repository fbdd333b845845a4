"""What a bundle ships: runs a half's segments and speaks to the other half.

Imports numpy, grpcio and tvm_ffi only, and none of partc's other packages.
"""

import os

# gRPC reads this when it is imported; what goes wrong is said by the errors of this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
