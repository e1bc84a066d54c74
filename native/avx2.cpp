// The kernels for the dispatch target `avx2`; the build passes its instruction set.
#include "table.inc"

namespace ps {
const Table avx2_table = {elementwise<float>(), elementwise<double>(), CODECS};
}
