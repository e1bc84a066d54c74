// Ascending indices and what is done at them. Scalar, so one build does for all dispatch targets. Meaning: the twins in
// ps/kernels/sparse.py and threshold.py. No index is trusted: `false` says that one was not below n; nothing is written
// outside an array.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ps {

using std::size_t;

bool gather(size_t n, const float* value, size_t k, const uint32_t* index, float* out);
bool clear(size_t n, float* out, size_t k, const uint32_t* index);
bool scatter_add(size_t n, float* out, size_t k, const uint32_t* index, const void* value, float weight);
bool threshold_sparse_add(size_t n, float* out, size_t k, const void* body, float step);

bool bitmap_encode(size_t k, const uint32_t* index, size_t n, uint8_t* out);
size_t bitmap_count(size_t bytes, const uint8_t* bitmap);
// Writes at most k indices; returns how many bits are set.
size_t bitmap_decode(size_t bytes, const uint8_t* bitmap, size_t k, uint32_t* index);

size_t varint_bytes(size_t k, const uint32_t* index);
// Writes at most `room` bytes; returns how many there are.
size_t varint_encode(size_t k, const uint32_t* index, size_t room, uint8_t* out);
// Writes at most k indices; returns how many there are.
size_t varint_decode(size_t bytes, const uint8_t* code, size_t k, uint32_t* index);
std::string varint_fault(size_t bytes, const uint8_t* code, size_t k, size_t n);

}  // namespace ps
