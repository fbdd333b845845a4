"""What a bundle ships: runs a half's segments and speaks to the other half.

Imports numpy, grpcio and tvm_ffi only, and none of partc's other packages.
"""
