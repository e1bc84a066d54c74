"""The control plane between processes: gRPC, as proto/control.proto says."""
