#include "indices.h"

#include <cstring>

namespace ps {

namespace {

template <typename T>
T read(const void* from, size_t i) {
    T x;
    std::memcpy(&x, static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
    return x;
}

// gap(j) = index_j - index_(j-1) - 1, modulo 2^32.
uint32_t gap(const uint32_t* index, size_t j) { return j ? index[j] - index[j - 1] - 1 : index[0]; }

// 1 + how many of 2^7, 2^14, 2^21, 2^28 the gap reaches.
size_t length_of(uint32_t gap) {
    return 1 + (gap >= 1u << 7) + (gap >= 1u << 14) + (gap >= 1u << 21) + (gap >= 1u << 28);
}

constexpr size_t VARINT_BYTES_MAX = 5;

}  // namespace

bool gather(size_t n, const float* value, size_t k, const uint32_t* index, float* out) {
    for (size_t j = 0; j < k; ++j) {
        const uint32_t i = index[j];
        if (i >= n) return false;
        out[j] = value[i];
    }
    return true;
}

bool clear(size_t n, float* out, size_t k, const uint32_t* index) {
    for (size_t j = 0; j < k; ++j) {
        const uint32_t i = index[j];
        if (i >= n) return false;
        out[i] = 0.0f;
    }
    return true;
}

bool scatter_add(size_t n, float* out, size_t k, const uint32_t* index, const void* value, float weight) {
    for (size_t j = 0; j < k; ++j) {
        const uint32_t i = index[j];
        if (i >= n) return false;
        out[i] = out[i] + weight * read<float>(value, j);
    }
    return true;
}

bool threshold_sparse_add(size_t n, float* out, size_t k, const void* body, float step) {
    for (size_t j = 0; j < k; ++j) {
        const int64_t number = read<int32_t>(body, j);
        const size_t i = size_t(number < 0 ? -number : number) - 1;
        if (i >= n) return false;
        out[i] = out[i] + (number > 0 ? step : -step);
    }
    return true;
}

bool bitmap_encode(size_t k, const uint32_t* index, size_t n, uint8_t* out) {
    std::memset(out, 0, (n + 7) / 8);
    for (size_t j = 0; j < k; ++j) {
        const uint32_t i = index[j];
        if (i >= n) return false;
        out[i / 8] = uint8_t(out[i / 8] | 1u << i % 8);
    }
    return true;
}

size_t bitmap_count(size_t bytes, const uint8_t* bitmap) {
    size_t count = 0, at = 0;
    for (; at + 8 <= bytes; at += 8) count += size_t(__builtin_popcountll(read<uint64_t>(bitmap, at / 8)));
    for (; at < bytes; ++at) count += size_t(__builtin_popcount(bitmap[at]));
    return count;
}

size_t bitmap_decode(size_t bytes, const uint8_t* bitmap, size_t k, uint32_t* index) {
    size_t done = 0;
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t bits = 0;
        std::memcpy(&bits, bitmap + at, bytes - at < 8 ? bytes - at : 8);
        for (; bits; bits &= bits - 1, ++done)
            if (done < k) index[done] = uint32_t(at * 8 + size_t(__builtin_ctzll(bits)));
    }
    return done;
}

size_t varint_bytes(size_t k, const uint32_t* index) {
    size_t bytes = 0;
    for (size_t j = 0; j < k; ++j) bytes += length_of(gap(index, j));
    return bytes;
}

size_t varint_encode(size_t k, const uint32_t* index, size_t room, uint8_t* out) {
    size_t done = 0;
    for (size_t j = 0; j < k; ++j) {
        uint32_t rest = gap(index, j);
        for (size_t left = length_of(rest); left; --left, rest >>= 7, ++done)
            if (done < room) out[done] = uint8_t((rest & 0x7fu) | (left > 1 ? 0x80u : 0u));
    }
    return done;
}

namespace {

// `body(index, length, last byte)` for each varint; a byte beyond the fifth adds nothing. Returns the bytes without an
// end that are left over.
template <typename Body>
size_t each_varint(size_t bytes, const uint8_t* code, Body body) {
    uint64_t next = 0, gap = 0;  // modulo 2^64, as in the twin
    size_t length = 0;
    for (size_t at = 0; at < bytes; ++at) {
        if (length < VARINT_BYTES_MAX) gap |= uint64_t(code[at] & 0x7fu) << 7 * length;
        ++length;
        if (code[at] & 0x80u) continue;
        next += gap + 1;
        body(next - 1, length, code[at]);
        gap = length = 0;
    }
    return length;
}

}  // namespace

size_t varint_decode(size_t bytes, const uint8_t* code, size_t k, uint32_t* index) {
    size_t done = 0;
    each_varint(bytes, code, [&](uint64_t i, size_t, uint8_t) {
        if (done < k) index[done] = uint32_t(i);
        ++done;
    });
    return done;
}

std::string varint_fault(size_t bytes, const uint8_t* code, size_t k, size_t n) {
    size_t count = 0;
    uint64_t last = 0;
    bool longer = false;
    const size_t open = each_varint(bytes, code, [&](uint64_t i, size_t length, uint8_t byte) {
        ++count;
        last = i;
        longer |= length > VARINT_BYTES_MAX || (length > 1 && byte == 0);
    });
    if (count != k) return std::to_string(count) + " varints";
    if (open) return "a varint without an end";
    if (longer) return "a varint that is longer than its number";
    return k == 0 || last < n ? "" : "index " + std::to_string(last);
}

}  // namespace ps
